"""One attempt in a slot: from its grant until nobody has to do anything more about it."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from services.agent.lease import Lease
from services.agent.runtime import MeshRuntime
from services.agent.stops import Stop, failure_of
from workmesh.clock import Clock
from workmesh.errors import MeshError
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk.attempt import Attempt
from workmesh.sdk.errors import AttemptLost
from workmesh.sdk.outcome import Failure

_logger = logging.getLogger(__name__)

STOP_GRACE: Final = 10.0
"""Seconds that a stopped handler has to end before its lease is no longer renewed."""
LOST_GRACE: Final = 5.0
"""Seconds that a handler without a lease has to end before its slot counts as gone."""

_OUTCOMES: Final = {
    FailAttempt.VERDICT_RETRY: "retried",
    FailAttempt.VERDICT_FAIL: "failed",
    FailAttempt.VERDICT_DEAD_LETTER: "dead_lettered",
    FailAttempt.VERDICT_RETURN: "returned",
    FailAttempt.VERDICT_CANCEL: "cancelled",
}


class Execution:
    """Runs an attempt, stops it for a reason, reports how it ended."""

    __slots__ = (
        "_clock",
        "_reporting",
        "_running",
        "_runtime",
        "_stop",
        "_stopped_at",
        "attempt",
        "begin_time",
        "job",
        "lease",
        "outcome",
        "started_at",
        "task",
        "timeout_at",
        "timeout_reason",
    )

    def __init__(
        self,
        lease: Lease,
        job: JobRecord,
        attempt: Attempt,
        runtime: MeshRuntime,
        timeout_at: float,
        timeout_reason: Stop,
        clock: Clock,
    ) -> None:
        self.lease = lease
        self.job = job
        self.attempt = attempt
        self.timeout_at = timeout_at
        self.timeout_reason = timeout_reason
        self.begin_time = clock.time()
        self.started_at = clock.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.outcome = "lost"
        """How it ended, for metrics: committed, retried, failed, …, lost."""
        self._runtime = runtime
        self._clock = clock
        self._stop: Stop | None = None
        self._stopped_at = 0.0
        self._running = False
        self._reporting = False

    @property
    def may_renew(self) -> bool:
        """Whether the lease is worth keeping: not for a handler that does not end when told to."""
        return self._stop is None or self._clock.monotonic() - self._stopped_at < STOP_GRACE

    @property
    def is_stuck(self) -> bool:
        """Whether the handler goes on though it lost its lease long ago."""
        return self._stop is Stop.LOST and self._clock.monotonic() - self._stopped_at > LOST_GRACE

    async def run(self) -> bool:
        """Run and report; tell whether the ledger knows the end."""
        try:
            failure = await self._run_attempt()
        except AttemptLost as lost:
            self._give_up(str(lost))
            return False
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            return await self._end_stopped(self._stop)
        if failure is None:
            self.outcome = "committed"
            return True
        return await self._report(failure)

    def stop(self, reason: Stop) -> None:
        """Cancel the handler, unless its outcome is on its way. The first reason counts, or LOST."""
        if self._reporting or self.attempt.is_committing:
            return
        if self._stop is not None and (reason is not Stop.LOST or self._stop is Stop.LOST):
            return
        self._stop = reason
        self._stopped_at = self._clock.monotonic()
        if reason is Stop.CANCEL:
            self.attempt.context.cancelled = True
        # A task that is cancelled before its first step would not even come to report that.
        if self._running and self.task is not None:
            self.task.cancel()

    def check(self, now: float) -> None:
        """Stop what has no lease or no time any more."""
        if now >= self.lease.ends_at:
            self.stop(Stop.LOST)
        elif now >= self.timeout_at:
            self.stop(self.timeout_reason)

    async def _run_attempt(self) -> Failure | None:
        if self._stop is not None:
            raise asyncio.CancelledError
        self._running = True
        return await self.attempt.run()

    async def _end_stopped(self, stop: Stop) -> bool:
        if stop is Stop.LOST:
            self._give_up("the lease ended while the handler ran")
            return False
        self._reporting = True
        if self.task is not None:
            self.task.uncancel()
        return await self._report(await self.attempt.stop(failure_of(stop)))

    async def _report(self, failure: Failure) -> bool:
        self._reporting = True
        try:
            if not await self._runtime.report(failure):
                self._give_up("the ledger was not reached")
                return False
        except AttemptLost as lost:
            self._give_up(str(lost))
            return False
        except MeshError as error:
            _logger.error(
                "the ledger refuses to hear how an attempt ended: %s",
                error,
                extra=self._fields("report_refused"),
            )
            return False
        self.outcome = _OUTCOMES[failure.verdict]
        return True

    def _give_up(self, why: str) -> None:
        self._runtime.end_calls()
        _logger.info("the attempt was given up: %s", why, extra=self._fields("attempt_lost"))

    def _fields(self, action: str) -> dict[str, object]:
        return {
            "action": action,
            "job_id": self.job.job_id,
            "epoch": self.lease.ref.epoch,
            "lease_id": self.lease.offer.lease_id,
        }
