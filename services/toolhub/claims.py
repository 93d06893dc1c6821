"""The ledger's side of effects: claims and settlements of many calls travel in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from services.toolhub.call import Call
from services.toolhub.effects import Claim, Standing
from workmesh import errors
from workmesh.batching import Batcher
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.metrics import watch_batcher

_logger = logging.getLogger(__name__)

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["LedgerWriteService"].full_name
_PROBE_SECONDS: Final = 1.0
_PROBE_PAUSE: Final = 0.2
_RPC_SECONDS: Final = 10.0
_SETTLE_SECONDS: Final = 30.0
_FIRST_PAUSE: Final = 0.05
_MOST_PAUSE: Final = 2.0
_WORTH_REPEATING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
    }
)
_STANDINGS: Final = {
    pb.ClaimEffectResult.STANDING_CLAIMED: Standing.CLAIMED,
    pb.ClaimEffectResult.STANDING_DONE: Standing.DONE,
    pb.ClaimEffectResult.STANDING_UNSETTLED: Standing.UNSETTLED,
}


class LedgerClaims:
    """Claims and settles effects in the ledger (EffectLedger)."""

    def __init__(self, channel: grpc.aio.Channel, instance: str, clock: Clock) -> None:
        self._check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        self._ledger = LedgerWriteServiceStub(channel)
        self._instance = instance
        self._clock = clock
        self._claims = Batcher(self._flush_claims, name="claims")
        self._settlements = Batcher(
            self._flush_settlements, name="settlements", size_of=lambda item: len(item.result) + 128
        )
        watch_batcher("toolhub", "claims", self._claims.stats)
        watch_batcher("toolhub", "settlements", self._settlements.stats)

    async def claim(self, call: Call, arguments_digest: bytes, deadline: float) -> Claim:
        item = pb.ClaimEffect(
            attempt=pb.AttemptRef(job_id=call.job_id, epoch=call.epoch),
            step=call.step,
            tool=call.target.name,
            arguments_digest=arguments_digest,
            call_deadline_micros=micros(deadline),
        )
        result = await self._claims.call(item)
        if not errors.is_ok(result.status):
            raise errors.from_status(result.status)
        standing = _STANDINGS.get(result.standing)
        if standing is None:
            raise errors.unavailable("DEPENDENCY_DOWN", "the ledger answered a claim with no standing")
        return Claim(standing, result.result, result.call_deadline_micros / 1e6)

    async def settle(self, call: Call, *, done: bool, result: bytes, source: str) -> None:
        item = pb.SettleEffect(
            job_id=call.job_id, series=call.series, step=call.step, done=done, result=result, source=source
        )
        end = self._clock.monotonic() + _SETTLE_SECONDS
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = await self._settlements.call(item)
                if not errors.is_ok(answer.status):
                    raise errors.from_status(answer.status)
                return
            except MeshError as error:
                if error.code not in _WORTH_REPEATING or self._clock.monotonic() + pause > end:
                    raise
            await asyncio.sleep(pause)
            pause = min(_MOST_PAUSE, 2 * pause)

    async def wait_until_ready(self) -> None:
        """Return once the ledger takes claims."""
        request = HealthCheckRequest(service=_SERVICE)
        while True:
            try:
                answer = await self._check_health(request, timeout=_PROBE_SECONDS, wait_for_ready=True)
                if answer.status == HealthCheckResponse.SERVING:
                    return
                state = "it is not serving"
            except grpc.aio.AioRpcError as error:
                state = str(errors.from_rpc_error(error))
            _logger.info("the ledger takes no claims yet", extra={"action": "ledger_probed", "state": state})
            await asyncio.sleep(_PROBE_PAUSE)

    async def close(self) -> None:
        """Return when everything queued is answered."""
        await self._claims.close()
        await self._settlements.close()

    async def _flush_claims(self, items: list[pb.ClaimEffect]) -> Sequence[pb.ClaimEffectResult]:
        request = pb.ClaimEffectsRequest(effects=items, instance=self._instance)
        try:
            response = await self._ledger.ClaimEffects(request, timeout=_RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _ledger_down(error) from error
        return response.results

    async def _flush_settlements(self, items: list[pb.SettleEffect]) -> Sequence[pb.ItemResult]:
        request = pb.SettleEffectsRequest(effects=items, instance=self._instance)
        try:
            response = await self._ledger.SettleEffects(request, timeout=_RPC_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _ledger_down(error) from error
        return response.results


def _ledger_down(error: grpc.aio.AioRpcError) -> MeshError:
    """Return what a failed call to the ledger means here: its deadline is ours, not the caller's."""
    failure = errors.from_rpc_error(error)
    if failure.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.unavailable("DEPENDENCY_DOWN", "the ledger did not answer in time", retry_after=1.0)
    return failure
