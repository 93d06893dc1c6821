"""LedgerWriteService: validates, hands one group of items a call to the batcher, converts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import grpc

from services.ledger import answers, job_checks, write_checks
from services.ledger.catalog import Catalog
from services.ledger.definitions import digest_of, normalised
from services.ledger.faults import Faults, refused
from services.ledger.items import (
    Apply,
    Begin,
    Cancel,
    Claim,
    Commit,
    Create,
    Fail,
    Granted,
    Item,
    Outcome,
    Record,
    Renew,
    Renewed,
    Settle,
)
from services.ledger.singletons import Singletons
from services.ledger.token_issuer import TokenIssuer
from workmesh import errors
from workmesh.batching import Batcher
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.errors import MeshError, Violation
from workmesh.ids import is_name
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceServicer
from workmesh.rpc.client import MAX_MESSAGE_BYTES

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Message = TypeVar("Message")

MAX_ITEMS: Final = 256

_ITEM_BYTES: Final = 256
# So many small inputs fit in a message whatever their number; the rest of a message is framing.
_SMALL_BYTES: Final = 8 << 10
_RESPONSE_BYTES: Final = MAX_MESSAGE_BYTES - (64 << 10)
_CURSOR_BYTES: Final = 256 << 10
_LEAST_SINGLETON: Final = 1_000_000
_MOST_SINGLETON: Final = 300_000_000


class WriteService(LedgerWriteServiceServicer):
    """Every change of the mesh's state."""

    def __init__(
        self,
        batcher: Batcher[Item, Outcome],
        catalog: Catalog,
        issuer: TokenIssuer,
        singletons: Singletons,
        lease_micros: int,
    ) -> None:
        self._batcher = batcher
        self._catalog = catalog
        self._issuer = issuer
        self._singletons = singletons
        self._lease_micros = lease_micros

    async def CreateJobs(self, request: pb.CreateJobsRequest, context: Context) -> pb.CreateJobsResponse:
        _check_instance(request.instance)
        _check_count("jobs", request.jobs)
        known = await self._catalog.find(
            (job.agent, job.version) for job in request.jobs if is_name(job.agent) and job.version > 0
        )

        def check(job: pb.NewJob, path: str) -> list[Violation] | MeshError:
            wrong = job_checks.new_job(job, path)
            if wrong or (job.agent, job.version) in known:
                return wrong
            return errors.not_found("agent", f"{job.agent}@{job.version}")

        def item(job: pb.NewJob) -> Create:
            # Labels, which a client chooses, become part of the event: they count as the input does.
            return Create(job, request.instance, job.ByteSize() + _ITEM_BYTES)

        outcomes = await self._write("jobs", request.jobs, check, item)
        response = pb.CreateJobsResponse()
        answers.fill(response.results, outcomes, answers.create)
        return response

    async def BeginAttempts(
        self, request: pb.BeginAttemptsRequest, context: Context
    ) -> pb.BeginAttemptsResponse:
        _check_instance(request.instance)

        def item(each: pb.BeginAttempt) -> Begin:
            return Begin(each.job_id, each.dispatch, each.lease_id, request.instance)

        outcomes = await self._write("attempts", request.attempts, write_checks.begin, item)
        grants = [each for each in outcomes if isinstance(each, Granted)]
        now = min((each.now_micros for each in grants), default=0)
        token = await self._issuer.issue([each.job for each in grants], now)
        response = pb.BeginAttemptsResponse(token=token, lease_micros=self._lease_micros)
        answers.fill(response.results, outcomes, answers.begin)
        _check_size(response, grants)
        return response

    async def RenewLeases(self, request: pb.RenewLeasesRequest, context: Context) -> pb.RenewLeasesResponse:
        _check_instance(request.instance)
        outcomes = await self._write(
            "attempts", request.attempts, write_checks.renew, lambda each: Renew(each.job_id, each.epoch)
        )
        renewed = [each for each in outcomes if isinstance(each, Renewed)]
        now = min((each.now_micros for each in renewed), default=0)
        token = await self._issuer.issue([each.job for each in renewed], now)
        response = pb.RenewLeasesResponse(token=token, lease_micros=self._lease_micros)
        answers.fill(response.results, outcomes, answers.renew)
        return response

    async def RecordSteps(self, request: pb.RecordStepsRequest, context: Context) -> pb.RecordStepsResponse:
        _check_instance(request.instance)

        def item(each: pb.RecordSteps) -> Record:
            attempt = each.attempt
            return Record(attempt.job_id, attempt.epoch, each.steps, request.instance, each.ByteSize())

        outcomes = await self._write("attempts", request.attempts, write_checks.record, item)
        response = pb.RecordStepsResponse()
        answers.fill(response.results, outcomes, answers.item)
        return response

    async def CommitAttempts(
        self, request: pb.CommitAttemptsRequest, context: Context
    ) -> pb.CommitAttemptsResponse:
        _check_instance(request.instance)

        def item(each: pb.CommitAttempt) -> Commit:
            attempt = each.attempt
            return Commit(
                attempt.job_id,
                attempt.epoch,
                each.output,
                each.steps,
                each.state_writes,
                request.instance,
                each.ByteSize(),
            )

        outcomes = await self._write("attempts", request.attempts, write_checks.commit, item)
        response = pb.CommitAttemptsResponse()
        answers.fill(response.results, outcomes, answers.commit)
        return response

    async def FailAttempts(
        self, request: pb.FailAttemptsRequest, context: Context
    ) -> pb.FailAttemptsResponse:
        _check_instance(request.instance)

        def item(each: pb.FailAttempt) -> Fail:
            return Fail(
                each.attempt.job_id,
                each.attempt.epoch,
                each.verdict,
                each.error,
                each.retry_after_micros,
                each.steps,
                request.instance,
                each.ByteSize(),
            )

        outcomes = await self._write("attempts", request.attempts, write_checks.fail, item)
        response = pb.FailAttemptsResponse()
        answers.fill(response.results, outcomes, answers.fail)
        return response

    async def CancelJobs(self, request: pb.CancelJobsRequest, context: Context) -> pb.CancelJobsResponse:
        _check_actor(request.actor)

        def item(each: pb.CancelJob) -> Cancel:
            return Cancel(each.job_id, each.client_id, each.reason, request.actor)

        outcomes = await self._write("jobs", request.jobs, write_checks.cancel, item)
        response = pb.CancelJobsResponse()
        answers.fill(response.results, outcomes, answers.cancel)
        return response

    async def ClaimEffects(
        self, request: pb.ClaimEffectsRequest, context: Context
    ) -> pb.ClaimEffectsResponse:
        _check_instance(request.instance)

        def item(each: pb.ClaimEffect) -> Claim:
            return Claim(
                each.attempt.job_id,
                each.attempt.epoch,
                each.step,
                each.tool,
                each.arguments_digest,
                each.call_deadline_micros,
                request.instance,
            )

        outcomes = await self._write("effects", request.effects, write_checks.claim, item)
        response = pb.ClaimEffectsResponse()
        answers.fill(response.results, outcomes, answers.claim)
        return response

    async def SettleEffects(
        self, request: pb.SettleEffectsRequest, context: Context
    ) -> pb.SettleEffectsResponse:
        _check_instance(request.instance)

        def item(each: pb.SettleEffect) -> Settle:
            return Settle(
                each.job_id,
                each.series,
                each.step,
                each.done,
                each.result,
                each.source,
                request.instance,
                len(each.result) + _ITEM_BYTES,
            )

        outcomes = await self._write("effects", request.effects, write_checks.settle, item)
        response = pb.SettleEffectsResponse()
        answers.fill(response.results, outcomes, answers.item)
        return response

    async def ApplyDefinitions(
        self, request: pb.ApplyDefinitionsRequest, context: Context
    ) -> pb.ApplyDefinitionsResponse:
        _check_actor(request.actor)
        contents = [normalised(each) for each in request.definitions]

        def item(each: AgentDefinition) -> Apply:
            return Apply(each, digest_of(each), request.actor, each.ByteSize())

        outcomes = await self._write("definitions", contents, job_checks.definition, item)
        response = pb.ApplyDefinitionsResponse()
        answers.fill(response.results, outcomes, answers.applied)
        return response

    async def AcquireSingleton(
        self, request: pb.AcquireSingletonRequest, context: Context
    ) -> pb.AcquireSingletonResponse:
        faults = Faults("")
        faults.name(request.name, "name")
        faults.text(request.holder, "holder", 256)
        if not _LEAST_SINGLETON <= request.lease_micros <= _MOST_SINGLETON:
            faults.add("lease_micros", "must be 1 s to 5 min")
        _raise(faults)
        hold = await self._singletons.acquire(request.name, request.holder, request.lease_micros)
        return pb.AcquireSingletonResponse(epoch=hold.epoch, expire_time_micros=hold.expire_time_micros)

    async def ReleaseSingleton(
        self, request: pb.ReleaseSingletonRequest, context: Context
    ) -> pb.ReleaseSingletonResponse:
        faults = Faults("")
        faults.name(request.name, "name")
        faults.text(request.holder, "holder", 256)
        _raise(faults)
        await self._singletons.release(request.name, request.holder, request.epoch)
        return pb.ReleaseSingletonResponse()

    async def StoreCursor(self, request: pb.StoreCursorRequest, context: Context) -> pb.StoreCursorResponse:
        faults = Faults("")
        faults.name(request.name, "name")
        if len(request.data) > _CURSOR_BYTES:
            faults.add("data", f"must have at most {_CURSOR_BYTES} bytes")
        if len({each.chain for each in request.positions}) != len(request.positions):
            faults.add("positions", "must name each chain once")
        _raise(faults)
        await self._singletons.store_cursor(request.name, request.epoch, request.positions, request.data)
        return pb.StoreCursorResponse()

    async def _write(
        self,
        field: str,
        messages: Sequence[Message],
        check: Callable[[Message, str], list[Violation] | MeshError],
        make: Callable[[Message], Item],
    ) -> Sequence[Outcome]:
        """Answer each message of a batch: malformed ones here, the others by one group of items."""
        _check_count(field, messages)
        items: list[Item] = []
        wrong: dict[int, Outcome] = {}
        for place, message in enumerate(messages):
            found = check(message, f"{field}[{place}]")
            if not found:
                items.append(make(message))
            else:
                wrong[place] = found if isinstance(found, MeshError) else refused(found)
        outcomes = await self._batcher.submit(items) if items else []
        _raise_if_away(outcomes)
        if not wrong:
            return outcomes
        rest = iter(outcomes)
        return [wrong[place] if place in wrong else next(rest) for place in range(len(messages))]


def _raise_if_away(outcomes: Sequence[Outcome]) -> None:
    """Fail the call when the database is away for all of it, so that it is tried again as a whole."""
    first = outcomes[0] if outcomes else None
    if not isinstance(first, MeshError) or first.code is not grpc.StatusCode.UNAVAILABLE:
        return
    if all(isinstance(each, MeshError) and each.code is grpc.StatusCode.UNAVAILABLE for each in outcomes):
        raise first


def _check_size(response: pb.BeginAttemptsResponse, grants: Sequence[Granted]) -> None:
    """Refuse an answer that no message carries; asked for in parts, the same leases get the same grants."""
    if not any(len(each.input) > _SMALL_BYTES or each.journal for each in grants):
        return
    size = response.ByteSize()
    if size > _RESPONSE_BYTES:
        message = (
            f"the grants have {size} bytes, a message at most {_RESPONSE_BYTES}: ask for fewer at a time"
        )
        raise errors.resource_exhausted("LIMIT_EXCEEDED", message, size=str(size), limit=str(_RESPONSE_BYTES))


def _check_instance(instance: str) -> None:
    faults = Faults("")
    faults.text(instance, "instance", 256)
    _raise(faults)


def _check_actor(actor: Actor) -> None:
    wrong = write_checks.actor(actor, "actor")
    if wrong:
        raise refused(wrong)


def _raise(faults: Faults) -> None:
    if faults.found:
        raise refused(faults.found)


def _check_count(field: str, messages: Sequence[object]) -> None:
    if not 1 <= len(messages) <= MAX_ITEMS:
        raise refused([Violation(field, f"must have 1 to {MAX_ITEMS} items")])
