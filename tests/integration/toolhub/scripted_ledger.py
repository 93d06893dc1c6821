"""A peer that speaks the ledger's effect contract from memory, with failures on demand.

The ledger itself is tested elsewhere; here the order of claims, calls and settlements is looked at, and what
a ledger that is away does to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from workmesh import errors
from workmesh.errors import MeshError
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.rpc.server import MeshServer, ServerSettings

SERVICE: Final = "workmesh.ledger.v1.LedgerWriteService"
Key = tuple[str, str]
Result = pb.ClaimEffectResult


@dataclass
class Effect:
    """A claimed effect: `done` is None while it is unsettled."""

    digest: bytes
    deadline_micros: int
    done: bool | None = None
    result: bytes = b""
    source: str = ""


@dataclass
class ScriptedLedger:
    """Keeps effects by (job, step), and a log of what was asked in which batch."""

    effects: dict[Key, Effect] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    claim_batches: list[int] = field(default_factory=list)
    claim_failures: list[MeshError] = field(default_factory=list)
    settle_failures: list[MeshError] = field(default_factory=list)
    superseded: set[str] = field(default_factory=set)
    address: str = ""

    def __post_init__(self) -> None:
        self.claims_held: asyncio.Event | None = None
        self.claim_asked = asyncio.Event()
        self.set_serving: Callable[[bool], None] = lambda serving: None

    async def ClaimEffects(self, request: pb.ClaimEffectsRequest, context: Any) -> pb.ClaimEffectsResponse:
        self.claim_asked.set()
        if self.claim_failures:
            raise self.claim_failures.pop(0)
        self.claim_batches.append(len(request.effects))
        results = [self._claim(item) for item in request.effects]
        if self.claims_held is not None:
            await self.claims_held.wait()
        return pb.ClaimEffectsResponse(results=results)

    async def SettleEffects(self, request: pb.SettleEffectsRequest, context: Any) -> pb.SettleEffectsResponse:
        if self.settle_failures:
            raise self.settle_failures.pop(0)
        return pb.SettleEffectsResponse(results=[self._settle(item) for item in request.effects])

    def _claim(self, item: pb.ClaimEffect) -> Result:
        key = (item.attempt.job_id, item.step)
        if item.attempt.job_id in self.superseded:
            status = errors.to_status(errors.aborted("STALE_EPOCH", "another grant superseded this attempt"))
            return Result(status=status)
        known = self.effects.get(key)
        if known is not None and known.digest != item.arguments_digest:
            mismatch = errors.failed_precondition("REPLAY_MISMATCH", "other arguments than before")
            return Result(status=errors.to_status(mismatch))
        if known is not None and known.done:
            self.log.append(f"done {item.step}")
            return Result(standing=Result.STANDING_DONE, result=known.result)
        if known is not None and known.done is None:
            self.log.append(f"unsettled {item.step}")
            return Result(standing=Result.STANDING_UNSETTLED, call_deadline_micros=known.deadline_micros)
        self.log.append(f"claimed {item.step}")
        self.effects[key] = Effect(item.arguments_digest, item.call_deadline_micros)
        return Result(standing=Result.STANDING_CLAIMED)

    def _settle(self, item: pb.SettleEffect) -> pb.ItemResult:
        effect = self.effects.get((item.job_id, item.step))
        outcome = (item.done, item.result)
        if effect is None or (effect.done is not None and (effect.done, effect.result) != outcome):
            wrong = errors.failed_precondition("WRONG_STATE", "settled before with another outcome")
            return pb.ItemResult(status=errors.to_status(wrong))
        effect.done, effect.result, effect.source = item.done, item.result, item.source
        self.log.append(f"settled {item.step} {'done' if item.done else 'not done'} {item.source}")
        return pb.ItemResult()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ScriptedLedger]:
        """Serve on a free port of the loopback."""
        server = MeshServer(ServerSettings("test"))
        server.add(_register, self, SERVICE)
        port = await server.start()
        self.set_serving = server.set_serving
        server.set_serving(True)
        self.address = f"127.0.0.1:{port}"
        try:
            yield self
        finally:
            await server.stop(0)


def _register(servicer: ScriptedLedger, server: grpc.aio.Server) -> None:
    """Serve the two calls that toolhub makes; the rest of the contract is none of its business."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ClaimEffects": grpc.unary_unary_rpc_method_handler(
            servicer.ClaimEffects,
            pb.ClaimEffectsRequest.FromString,
            pb.ClaimEffectsResponse.SerializeToString,
        ),
        "SettleEffects": grpc.unary_unary_rpc_method_handler(
            servicer.SettleEffects,
            pb.SettleEffectsRequest.FromString,
            pb.SettleEffectsResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
