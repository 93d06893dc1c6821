"""Finds runnable jobs whose message is missing, and publishes them again."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from services.scheduler.figures import REPUBLISHED
from services.scheduler.ledger import LedgerClient
from services.scheduler.messages import Publication
from services.scheduler.publisher import Publisher
from services.scheduler.routing import live_dispatch
from services.scheduler.stream import JobsStream, StreamFault
from services.scheduler.subjects import job_subject, lane_index
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob

_logger = logging.getLogger(__name__)

MOST_JOBS: Final = 20_000
MOST_REMEMBERED: Final = 50_000
MOST_DOUBLINGS: Final = 10
CLOCK_SLACK: Final = 1.0
"""Seconds that JetStream's clock may be ahead of ours, or of the database's."""

Oldest = Mapping[tuple[str, int], float | None]
"""When the oldest message that was never delivered was stored, by pool and lane; None without one."""


@dataclass(frozen=True, slots=True)
class _Repeat:
    """When a job was last published again, and how often."""

    at: float
    count: int


_NEVER: Final = _Repeat(0.0, 0)


class Reconciler:
    """The net under everything else: whatever lost a message, its job is found here after some ack_wait.

    A job is taken for lost when it could have begun ack_wait ago, no message of it is in hand here, and every
    message of its lane that was never delivered is younger than it, and than the filling of the stream:
    messages keep their order, so that its own would have been delivered. Published without a message id: a
    duplicate is harmless, a swallowed message is not.
    """

    def __init__(
        self,
        ledger: LedgerClient,
        stream: JobsStream,
        publisher: Publisher,
        clock: Clock,
        *,
        ack_wait: float,
        holds: Callable[[str, int], bool],
    ) -> None:
        self._ledger = ledger
        self._stream = stream
        self._publisher = publisher
        self._clock = clock
        self._ack_wait = ack_wait
        self._holds = holds
        self._published: OrderedDict[tuple[str, int], _Repeat] = OrderedDict()
        self.filled_at = 0.0
        """When everything live was published, seconds since the epoch."""

    async def run(self) -> None:
        """Reconcile twice an ack_wait, for ever."""
        while True:
            await asyncio.sleep(self._ack_wait / 2)
            try:
                await self.reconcile()
            except (MeshError, *StreamFault) as error:
                _logger.warning(
                    "queues could not be compared with the ledger",
                    extra={"action": "reconcile_failed", "error": f"{type(error).__name__}: {error}"},
                )

    async def reconcile(self) -> int:
        """Publish what is missing, of the oldest MOST_JOBS overdue jobs, and return how many that were."""
        before = self._clock.time() - self._ack_wait
        oldest = await self._oldest()
        lost: list[LiveJob] = []
        async for _, jobs in self._ledger.live_jobs(
            runnable_before=micros(before), limit=MOST_JOBS, seconds=self._ack_wait
        ):
            lost += [job for job in jobs if self._is_lost(job, oldest, before)]
        await self._publisher.publish([_again(job) for job in lost])
        for job in lost:
            self._remember(job)
        if lost:
            REPUBLISHED.inc(len(lost))
            _logger.warning("jobs had no message", extra={"action": "jobs_reconciled", "jobs": len(lost)})
        return len(lost)

    async def _oldest(self) -> Oldest:
        """Read the queues before the ledger: what is delivered in between then only looks waiting."""
        count = await self._stream.count()
        return {(each.pool, each.lane): await self._stream.oldest_waiting(each) for each in count.lanes}

    def _is_lost(self, job: LiveJob, oldest: Oldest, before: float) -> bool:
        routing = job.routing
        if self._holds(job.job_id, routing.dispatch):
            return False
        repeat = self._published.get((job.job_id, routing.dispatch), _NEVER)
        since = max(job.runnable_time_micros / 1e6, repeat.at)
        # Twice as patient each time: where every slot is taken for hours, messages wait out of our sight.
        overdue = since < before - self._ack_wait * (2**repeat.count - 1)
        first = oldest.get((routing.pool, lane_index(routing.lane)))
        return overdue and (first is None or max(since, self.filled_at) < first - CLOCK_SLACK)

    def _remember(self, job: LiveJob) -> None:
        key = (job.job_id, job.routing.dispatch)
        count = self._published.get(key, _NEVER).count
        self._published[key] = _Repeat(self._clock.time(), min(count + 1, MOST_DOUBLINGS))
        self._published.move_to_end(key)
        while len(self._published) > MOST_REMEMBERED:
            self._published.popitem(last=False)


def _again(job: LiveJob) -> Publication:
    dispatch = live_dispatch(job)
    return Publication(job_subject(dispatch.pool, dispatch.lane), dispatch.SerializeToString())
