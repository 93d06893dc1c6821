"""Reads of jobs: by id, in lists, their histories, and all that are live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from services.ledger import statements
from services.ledger.job_records import JOB_COLUMNS, live_job, position
from services.ledger.read_pool import ReadPool, Row
from workmesh.batching import Batcher, BatcherStats
from workmesh.common.v1 import job_pb2
from workmesh.ledger.v1.block_pb2 import Position
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob

LIVE_JOBS_A_MESSAGE: Final = 512

LIVE_STATES: Final = frozenset(
    {
        job_pb2.JOB_STATE_SCHEDULED,
        job_pb2.JOB_STATE_QUEUED,
        job_pb2.JOB_STATE_RUNNING,
        job_pb2.JOB_STATE_WAITING,
        job_pb2.JOB_STATE_PAUSED,
    }
)

_FETCH_SECONDS: Final = 5.0
_SCAN_SECONDS: Final = 60.0
_MAX_SCANS: Final = 2
# Bodies that one batch may hold in memory.
_MAX_BATCH_BYTES: Final = 64 << 20

_PLACE, _INPUT, _OUTPUT, _WITHHELD = range(JOB_COLUMNS, JOB_COLUMNS + 4)


class JobAsk(NamedTuple):
    """One job asked for: of one client ('': any), with which bodies."""

    job_id: str
    client_id: str
    with_input: bool
    with_output: bool


class FoundJob(NamedTuple):
    """A job's row and the bodies asked for; they are `withheld` where the whole batch would be too large."""

    row: Row
    input: bytes | None
    output: bytes | None
    withheld: bool


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs a list holds; empty or 0: any."""

    client_id: str
    agent: str
    states: tuple[int, ...]
    labels: Mapping[str, str]
    lane: int


@dataclass(frozen=True, slots=True)
class History:
    """A job with the steps of its current series and all its events, read at one moment."""

    job: Row
    steps: list[Row]
    events: list[Row]


@dataclass(frozen=True, slots=True)
class LiveFilter:
    """Which live jobs to stream: of a pool, runnable before a time, at most so many; '' or 0: all."""

    pool: str
    runnable_before_micros: int
    limit: int


class JobReads:
    """Reads jobs; look-ups of concurrent callers share a statement."""

    def __init__(self, pool: ReadPool, *, clock_allowance_micros: int) -> None:
        self._pool = pool
        self._clock_allowance_micros = clock_allowance_micros
        self._sql = statements.load("reads")
        self._heads_sql = statements.load("feed")["heads"]
        # However many streams there are, connections are left for look-ups.
        self._scans = asyncio.Semaphore(_MAX_SCANS)
        self._batcher: Batcher[JobAsk, FoundJob | None] = Batcher(
            self._fetch, name="ledger_get_jobs", max_items=256, flights=2
        )

    def get(self, asks: Sequence[JobAsk]) -> asyncio.Future[list[FoundJob | None]]:
        """Look jobs up; None for one that is unknown or another client's."""
        return self._batcher.submit(asks)

    async def page(self, wanted: JobFilter, below: str | None, limit: int) -> list[Row]:
        """Return the newest jobs that match, below an id if one is given."""
        of_client = (wanted.client_id,) if wanted.client_id else ()
        return await self._pool.fetch(
            self._sql["list_client_jobs" if wanted.client_id else "list_jobs"],
            below,
            wanted.agent,
            wanted.states,
            orjson.dumps(dict(wanted.labels)).decode() if wanted.labels else None,
            wanted.lane,
            limit,
            bool(wanted.states) and all(state in LIVE_STATES for state in wanted.states),
            *of_client,
        )

    async def history(self, job_id: str, client_id: str) -> History | None:
        """Return a job's history; None if it is unknown or another client's."""
        async with self._pool.snapshot() as snapshot:
            jobs = await snapshot.fetch(self._sql["get_jobs"], [job_id], [client_id], [False], [False], 0)
            if not jobs:
                return None
            return History(
                job=jobs[0],
                steps=await snapshot.fetch(self._sql["get_journal"], job_id, jobs[0]["series"]),
                events=await snapshot.fetch(self._sql["get_history"], job_id),
            )

    async def live(self, wanted: LiveFilter) -> AsyncGenerator[tuple[list[Position], list[LiveJob]], None]:
        """Yield the chain heads alone, then the live jobs as they are at those heads, up to 512 at a time."""
        async with self._scans, self._pool.snapshot(_SCAN_SECONDS) as snapshot:
            yield [position(row) for row in await snapshot.fetch(self._heads_sql)], []
            pages = snapshot.pages(
                self._sql["live_jobs"],
                self._clock_allowance_micros,
                wanted.pool,
                wanted.runnable_before_micros,
                wanted.limit,
                size=LIVE_JOBS_A_MESSAGE,
                seconds=_SCAN_SECONDS,
            )
            async for rows in pages:
                yield [], [live_job(row) for row in rows]

    async def count(self) -> list[Row]:
        """Count live jobs: rows of pool, lane, state and count."""
        return await self._pool.fetch(self._sql["count_jobs"])

    def stats(self) -> BatcherStats:
        """Return what the batcher of look-ups did."""
        return self._batcher.stats()

    async def close(self) -> None:
        """Answer what was asked and take nothing more."""
        await self._batcher.close()

    async def _fetch(self, asks: list[JobAsk]) -> list[FoundJob | None]:
        rows = await self._pool.fetch(
            self._sql["get_jobs"], *zip(*asks, strict=True), _MAX_BATCH_BYTES, seconds=_FETCH_SECONDS
        )
        found: list[FoundJob | None] = [None] * len(asks)
        for row in rows:
            found[row[_PLACE] - 1] = FoundJob(row, row[_INPUT], row[_OUTPUT], row[_WITHHELD])
        return found
