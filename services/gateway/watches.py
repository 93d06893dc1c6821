"""Who waits for which job: woken by hints, and by a slow sweep for the hints that were lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Final, Protocol

from workmesh import errors
from workmesh.common.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_DEAD_LETTERED,
    JOB_STATE_FAILED,
    JOB_STATE_SUCCEEDED,
    JobState,
)
from workmesh.errors import MeshError
from workmesh.ledger.v1.job_pb2 import JobRecord

_logger = logging.getLogger(__name__)

TERMINAL: Final = frozenset(
    {JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED, JOB_STATE_DEAD_LETTERED}
)
_SWEEP_BATCH = 1_000


class Watcher(Protocol):
    """Something that waits for changes of jobs."""

    def job_changed(self, job_id: str, seq: int, state: JobState.ValueType) -> None:
        """A job is known to stand at this sequence and state; may repeat and may come out of order."""


class Watches:
    """The jobs that calls of this process follow.

    `add` raises RESOURCE_EXHAUSTED LIMIT_EXCEEDED when more than `most` jobs are followed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._watchers: dict[str, set[Watcher]] = {}

    def __len__(self) -> int:
        return len(self._watchers)

    def add(self, job_id: str, watcher: Watcher) -> None:
        """Let the watcher hear of the job."""
        known = self._watchers.get(job_id)
        if known is not None:
            known.add(watcher)
        elif len(self._watchers) >= self._most:
            raise errors.resource_exhausted(
                "LIMIT_EXCEEDED",
                f"{self._most} jobs are watched already",
                retry_after=1.0,
                limit=str(self._most),
            )
        else:
            self._watchers[job_id] = {watcher}

    def remove(self, job_id: str, watcher: Watcher) -> None:
        """Let the watcher hear of the job no more; harmless if it does not."""
        known = self._watchers.get(job_id)
        if known is not None:
            known.discard(watcher)
            if not known:
                del self._watchers[job_id]

    def changed(self, job_id: str, seq: int, state: JobState.ValueType) -> None:
        """Tell those who follow the job."""
        for watcher in tuple(self._watchers.get(job_id, ())):
            watcher.job_changed(job_id, seq, state)

    async def sweep(self, read: Callable[[Sequence[str]], Awaitable[Iterable[JobRecord]]]) -> None:
        """Read every followed job once and tell its watchers how it stands."""
        followed = iter(tuple(self._watchers))
        while batch := list(islice(followed, _SWEEP_BATCH)):
            for record in await read(batch):
                self.changed(record.job_id, record.seq, record.state)

    async def sweep_forever(
        self, read: Callable[[Sequence[str]], Awaitable[Iterable[JobRecord]]], seconds: float
    ) -> None:
        """Sweep again and again, `seconds` between the end of one and the begin of the next."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.sweep(read)
            except MeshError as error:
                _logger.warning("sweep failed", extra={"action": "sweep_failed", "error": str(error)})


class JobWatch:
    """Waits for the next change of one job."""

    def __init__(self, watches: Watches, job_id: str) -> None:
        self._watches = watches
        self._job_id = job_id
        self._seq = 0
        self._changed = asyncio.Event()

    def __enter__(self) -> JobWatch:
        self._watches.add(self._job_id, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._watches.remove(self._job_id, self)

    def job_changed(self, job_id: str, seq: int, state: JobState.ValueType) -> None:
        """Note that the job stands at this sequence."""
        if seq > self._seq:
            self._seq = seq
            self._changed.set()

    async def wait_after(self, seq: int, seconds: float) -> bool:
        """Wait until the job is known to have passed `seq`; False if it did not within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while self._seq <= seq:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True
