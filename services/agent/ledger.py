"""The ledger as an instance calls it: everything in batches, gathered over all its attempts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import grpc

from services.agent.backoff import pause
from workmesh.batching import Batcher
from workmesh.clock import Clock
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.errors import MeshError, from_rpc_error
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.job_pb2 import JournalStep, StateDocument, StateWrite
from workmesh.ledger.v1.ledger_read_service_pb2 import GetStatesRequest, StateRef
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.sdk.outcome import is_transient

if TYPE_CHECKING:
    from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceAsyncStub
    from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceAsyncStub

_MOST_ITEMS: Final = 256
_MOST_DOCUMENTS: Final = 32
_OVERHEAD: Final = 256

Item = TypeVar("Item")
Result = TypeVar("Result")


class Begun(NamedTuple):
    """The ledger's answer to one offer; `sent_at` is the monotonic time from which a lease counts."""

    result: pb.BeginAttemptResult
    token: JobToken
    sent_at: float
    lease_seconds: float


class Commit(NamedTuple):
    """An attempt that ended well. Its message is made in place: a copy of output and steps less."""

    ref: pb.AttemptRef
    output: bytes
    steps: Sequence[JournalStep]
    writes: Sequence[StateWrite]

    def size(self) -> int:
        """Return about how many bytes it takes."""
        bodies = sum(len(step.result) + _OVERHEAD for step in self.steps)
        return len(self.output) + _OVERHEAD + bodies + sum(map(StateWrite.ByteSize, self.writes))


class Renewed(NamedTuple):
    """The ledger's answer to a batch of renewals."""

    results: Sequence[pb.RenewLeaseResult]
    token: JobToken
    sent_at: float
    lease_seconds: float


class Ledger:
    """Calls to the ledger. What fails as a whole raises MeshError, the results carry the items' statuses."""

    def __init__(
        self, channel: grpc.aio.Channel, *, instance: str, timeout: float, lease_seconds: float, clock: Clock
    ) -> None:
        self._instance = instance
        self._timeout = timeout
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._write: LedgerWriteServiceAsyncStub = LedgerWriteServiceStub(channel)
        self._read: LedgerReadServiceAsyncStub = LedgerReadServiceStub(channel)
        self.begin: Batcher[pb.BeginAttempt, Begun] = Batcher(self._begin, name="begin")
        self.record: Batcher[pb.RecordSteps, pb.ItemResult] = Batcher(
            self._record, name="record", size_of=pb.RecordSteps.ByteSize
        )
        self.commit: Batcher[Commit, pb.CommitAttemptResult] = Batcher(
            self._commit, name="commit", size_of=Commit.size
        )
        self.fail: Batcher[pb.FailAttempt, pb.FailAttemptResult] = Batcher(
            self._fail, name="fail", size_of=pb.FailAttempt.ByteSize
        )
        self.states: Batcher[StateRef, StateDocument] = Batcher(
            self._states, name="states", max_items=_MOST_DOCUMENTS
        )

    @property
    def batchers(self) -> dict[str, Batcher[object, object]]:
        """The batchers by name, for metrics and for closing."""
        every = (self.begin, self.record, self.commit, self.fail, self.states)
        return {each.name: each for each in every}  # type: ignore[misc]

    async def apply(self, definitions: Sequence[AgentDefinition]) -> Sequence[pb.ApplyDefinitionResult]:
        """Apply definitions, on behalf of this process."""
        actor = Actor(kind=Actor.KIND_SERVICE, id="agent", instance=self._instance)
        request = pb.ApplyDefinitionsRequest(definitions=definitions, actor=actor)
        return (await _call(self._write.ApplyDefinitions(request, timeout=self._timeout))).results

    async def renew(self, attempts: Sequence[pb.AttemptRef]) -> Renewed:
        """Extend the leases of up to 256 attempts; answered within a quarter of a lease or not at all."""
        sent_at = self._clock.monotonic()
        request = pb.RenewLeasesRequest(attempts=attempts, instance=self._instance)
        timeout = min(self._timeout, self._lease_seconds / 4)
        response = await _call(self._write.RenewLeases(request, timeout=timeout))
        return Renewed(response.results, response.token, sent_at, response.lease_micros / 1e6)

    async def close(self) -> None:
        """Answer what was asked and take nothing more."""
        await asyncio.gather(*(each.close() for each in self.batchers.values()))

    async def _begin(self, attempts: list[pb.BeginAttempt]) -> Sequence[Begun]:
        """Ask until answered: the same lease ids get the same grants.

        The leases count from the first asking, which may have been the one that got them.
        """
        sent_at = self._clock.monotonic()
        tries = 0
        while True:
            try:
                return await _in_parts(attempts, lambda part: self._begin_part(part, sent_at))
            except MeshError as error:
                wait = pause(tries, random.random(), error.retry_after)
                if not is_transient(error) or self._clock.monotonic() + wait > sent_at + self._lease_seconds:
                    raise
                tries += 1
                await asyncio.sleep(wait)

    async def _begin_part(self, attempts: Sequence[pb.BeginAttempt], sent_at: float) -> list[Begun]:
        request = pb.BeginAttemptsRequest(attempts=attempts, instance=self._instance)
        response = await _call(self._write.BeginAttempts(request, timeout=self._timeout))
        seconds = response.lease_micros / 1e6
        return [Begun(result, response.token, sent_at, seconds) for result in response.results]

    async def _record(self, attempts: list[pb.RecordSteps]) -> Sequence[pb.ItemResult]:
        request = pb.RecordStepsRequest(attempts=attempts, instance=self._instance)
        return (await _call(self._write.RecordSteps(request, timeout=self._timeout))).results

    async def _commit(self, commits: list[Commit]) -> Sequence[pb.CommitAttemptResult]:
        request = pb.CommitAttemptsRequest(instance=self._instance)
        add = request.attempts.add
        for ref, output, steps, writes in commits:
            add(attempt=ref, output=output, steps=steps, state_writes=writes)
        return (await _call(self._write.CommitAttempts(request, timeout=self._timeout))).results

    async def _fail(self, attempts: list[pb.FailAttempt]) -> Sequence[pb.FailAttemptResult]:
        request = pb.FailAttemptsRequest(attempts=attempts, instance=self._instance)
        return (await _call(self._write.FailAttempts(request, timeout=self._timeout))).results

    async def _states(self, refs: list[StateRef]) -> Sequence[StateDocument]:
        return await _in_parts(refs, self._states_part)

    async def _states_part(self, refs: Sequence[StateRef]) -> list[StateDocument]:
        request = GetStatesRequest(refs=refs)
        return list((await _call(self._read.GetStates(request, timeout=self._timeout))).documents)


async def _call(call: Awaitable[Result]) -> Result:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def _in_parts(
    items: Sequence[Item], ask: Callable[[Sequence[Item]], Awaitable[list[Result]]]
) -> list[Result]:
    """Ask for all at once, and by halves where the answer does not fit a message."""
    try:
        return await ask(items)
    except MeshError as error:
        too_large = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.reason == "LIMIT_EXCEEDED"
        if not too_large or len(items) == 1:
            raise
    middle = len(items) // 2
    return await _in_parts(items[:middle], ask) + await _in_parts(items[middle:], ask)
