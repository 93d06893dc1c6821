"""The world of one attempt: toolhub's stream and the ledger's batches, under the attempt's lease."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

from google.rpc.status_pb2 import Status

from services.agent.backoff import pause
from services.agent.lease import Lease
from services.agent.ledger import Commit, Ledger
from services.agent.tools import PendingCall, ToolStream
from workmesh.batching import Batcher
from workmesh.clock import Clock
from workmesh.errors import MeshError, from_status, to_status
from workmesh.ledger.v1.job_pb2 import JournalStep, StateDocument, StateWrite
from workmesh.ledger.v1.ledger_read_service_pb2 import StateRef
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt, RecordSteps
from workmesh.sdk.errors import AttemptLost
from workmesh.sdk.outcome import Failure, is_transient

_LOST: Final = frozenset({"STALE_EPOCH", "LEASE_EXPIRED", "JOB_TERMINAL", "JOB_NOT_FOUND"})

_LEASES_TO_INSIST: Final = 3.0
"""How many lease lengths a report is repeated: it is accepted as long as nobody else was granted the job."""


class _Result(Protocol):
    @property
    def status(self) -> Status: ...


Item = TypeVar("Item")
Result = TypeVar("Result", bound=_Result)


class MeshRuntime:
    """Implements workmesh.sdk.runtime.Runtime for one attempt."""

    __slots__ = ("_client_id", "_clock", "_deadline_micros", "_ended", "_lease", "_ledger", "_open", "_tools")

    def __init__(
        self,
        lease: Lease,
        client_id: str,
        deadline_micros: int,
        ledger: Ledger,
        tools: ToolStream,
        clock: Clock,
    ) -> None:
        self._lease = lease
        self._client_id = client_id
        self._deadline_micros = deadline_micros
        self._ledger = ledger
        self._tools = tools
        self._clock = clock
        self._open: set[PendingCall] = set()
        self._ended = False

    async def call_tool(self, step: str, tool: str, arguments: bytes) -> bytes:
        """Make a call, if the lease still holds."""
        self._lease.check()
        if self._ended:
            raise AttemptLost("the attempt has ended")
        pending = self._tools.start(self._lease, step, tool, arguments, self._deadline_micros)
        self._open.add(pending)
        try:
            result = await pending.future
        except asyncio.CancelledError:
            self._tools.cancel(pending)
            raise
        finally:
            self._open.discard(pending)
        if result.HasField("error"):
            error = from_status(result.error)
            if error.reason in _LOST:
                raise AttemptLost(error.message)
            raise error
        return result.result

    async def record_steps(self, steps: Sequence[JournalStep]) -> None:
        """Journal steps, trying until the lease is over."""
        self._lease.check()
        item = RecordSteps(attempt=self._lease.ref, steps=steps)
        # A renewal meanwhile gives it longer.
        if await self._insist(self._ledger.record, item, lambda: self._lease.ends_at) is None:
            raise AttemptLost("the steps could not be journaled within the lease")

    async def read_state(self, collection: str, key: str) -> StateDocument:
        """Read a document, trying until the lease is over."""
        ref = StateRef(client_id=self._client_id, collection=collection, key=key)
        tries = 0
        while True:
            self._lease.check()
            try:
                return await self._ledger.states.call(ref)
            except MeshError as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(pause(tries, random.random(), error.retry_after))
                tries += 1

    async def commit(
        self, output: bytes, steps: Sequence[JournalStep], writes: Sequence[StateWrite]
    ) -> Sequence[StateDocument]:
        """Commit, trying for some leases' time; documents that conflict are returned."""
        self._lease.check()
        self.end_calls()
        item = Commit(self._lease.ref, output, steps, writes)
        result = await self._insist(self._ledger.commit, item, self._report_until())
        if result is None:
            raise AttemptLost("the commit was not answered")
        if not result.status.code:
            return ()
        return result.conflicts or await self._read_written(writes)

    def end_calls(self) -> None:
        """Cancel what tasks that the handler left behind still call, before the end is reported."""
        self._ended = True
        for pending in list(self._open):
            self._tools.cancel(pending)
            pending.future.cancel()

    async def report(self, failure: Failure) -> bool:
        """Report a failure, trying for some leases' time; False when the ledger was not reached."""
        self._lease.check()
        self.end_calls()
        item = FailAttempt(
            attempt=self._lease.ref,
            verdict=failure.verdict,
            error=to_status(failure.error),
            retry_after_micros=round((failure.retry_after or 0.0) * 1e6),
            steps=failure.steps,
        )
        try:
            return await self._insist(self._ledger.fail, item, self._report_until()) is not None
        except MeshError:
            if not item.steps:
                raise
        # The steps may be what is refused; the failure itself must be known.
        del item.steps[:]
        return await self._insist(self._ledger.fail, item, self._report_until()) is not None

    def _report_until(self) -> Callable[[], float]:
        until = self._clock.monotonic() + _LEASES_TO_INSIST * self._lease.seconds
        return lambda: until

    async def _insist(
        self, batcher: Batcher[Item, Result], item: Item, until: Callable[[], float]
    ) -> Result | None:
        """Send an item until it is answered; None when that did not happen before a monotonic time.

        A conflict of documents is an answer. Raises AttemptLost when the attempt is no longer the current
        one, MeshError when the item is refused for good.
        """
        tries = 0
        while True:
            try:
                result = await batcher.call(item)
                if not result.status.code:
                    return result
                error = from_status(result.status)
                if error.reason == "STATE_CONFLICT":
                    return result
            except MeshError as failure:
                error = failure
            if error.reason in _LOST:
                raise AttemptLost(error.message)
            if not is_transient(error):
                raise error
            wait = pause(tries, random.random(), error.retry_after)
            if self._clock.monotonic() + wait >= until():
                return None
            tries += 1
            await asyncio.sleep(wait)

    async def _read_written(self, writes: Sequence[StateWrite]) -> list[StateDocument]:
        refs = [
            StateRef(client_id=self._client_id, collection=write.collection, key=write.key)
            for write in writes
            if write.HasField("expected_version")
        ]
        return await self._ledger.states.submit(refs)
