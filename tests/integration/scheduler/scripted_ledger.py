"""A ledger of some hundred lines that keeps the contract's promises to the scheduler, in memory.

It stands in where a test needs a hand on the ledger: to fork its log, stop its feed or count its calls. Tests
of the whole use the real one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from workmesh import errors
from workmesh.chain import digest
from workmesh.common.v1 import job_pb2 as states
from workmesh.ids import uuid7
from workmesh.ledger.v1 import feed_service_pb2 as feed
from workmesh.ledger.v1 import ledger_read_service_pb2 as reads
from workmesh.ledger.v1 import ledger_write_service_pb2 as writes
from workmesh.ledger.v1.block_pb2 import Block, Position
from workmesh.ledger.v1.event_pb2 import (
    AttemptBegun,
    AttemptFailed,
    CancelRequested,
    Event,
    JobCreated,
    JobSucceeded,
    Routing,
)
from workmesh.ledger.v1.feed_service_pb2_grpc import FeedServiceServicer, add_FeedServiceServicer_to_server
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import (
    LedgerReadServiceServicer,
    add_LedgerReadServiceServicer_to_server,
)
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import (
    LedgerWriteServiceServicer,
    add_LedgerWriteServiceServicer_to_server,
)
from workmesh.rpc.server import MeshServer, ServerSettings

CLIENT = "tester"


def now_micros() -> int:
    return round(time.time() * 1e6)


@dataclass
class ScriptedJob:
    """A job as the ledger knows it; times in microseconds since the epoch."""

    job_id: str
    routing: Routing
    state: states.JobState.ValueType
    changed: int
    seq: int = 0
    epoch: int = 0
    lease_id: str = ""
    lease_end: int = 0
    begun: list[str] = field(default_factory=list)
    """Lease ids granted, in order."""

    @property
    def ended(self) -> bool:
        return self.state > states.JOB_STATE_PAUSED


class ScriptedLedger(FeedServiceServicer, LedgerReadServiceServicer, LedgerWriteServiceServicer):
    """Feed, cursor, singleton and live jobs by RPC; jobs by plain calls."""

    def __init__(self, *, lease_seconds: float = 1.0, allowance_seconds: float = 0.2) -> None:
        self.lease_micros = round(lease_seconds * 1e6)
        self.allowance_micros = round(allowance_seconds * 1e6)
        self.jobs: dict[str, ScriptedJob] = {}
        self.blocks: list[Block] = []
        self.refusals: list[writes.AttemptRefusal.Reason.ValueType] = []
        self.cursor = feed.GetCursorResponse()
        self.holder = ""
        self.epoch = 0
        self.lease_until = 0
        self.live_reads = 0
        self.reachable = True
        self._grown = asyncio.Event()
        self._server: MeshServer | None = None

    async def start(self) -> str:
        """Serve on a free port and return host:port."""
        self._server = MeshServer(ServerSettings("ledger", grace=0.1))
        self._server.add(add_FeedServiceServicer_to_server, self, "workmesh.ledger.v1.FeedService")
        reading, writing = "workmesh.ledger.v1.LedgerReadService", "workmesh.ledger.v1.LedgerWriteService"
        self._server.add(add_LedgerReadServiceServicer_to_server, self, reading)
        self._server.add(add_LedgerWriteServiceServicer_to_server, self, writing)
        port = await self._server.start()
        self._server.set_serving(True)
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    # What happens to jobs.

    def create(self, *routings: Routing) -> list[str]:
        """Create a job per routing, all in one block."""
        made: list[str] = []
        events = []
        for routing in routings:
            job_id = uuid7()
            routing.dispatch = 1
            state = (
                states.JOB_STATE_SCHEDULED
                if routing.run_time_micros > now_micros()
                else states.JOB_STATE_QUEUED
            )
            job = self.jobs[job_id] = ScriptedJob(job_id, routing, state, now_micros())
            events.append(self._event(job, job_created=JobCreated(routing=routing)))
            made.append(job_id)
        self._append(events)
        return made

    def begin(self, job_id: str, dispatch: int, lease_id: str, instance: str) -> writes.AttemptRefusal | None:
        """Grant an attempt, or say why not."""
        job = self.jobs.get(job_id)
        refusal = self._refusal(job, dispatch, lease_id)
        if refusal is not None or job is None:
            assert refusal is not None
            self.refusals.append(refusal.reason)
            return refusal
        job.state = states.JOB_STATE_RUNNING
        job.epoch += 1
        job.lease_id = lease_id
        job.lease_end = now_micros() + self.lease_micros
        job.begun.append(lease_id)
        begun = AttemptBegun(epoch=job.epoch, lease_id=lease_id, instance=instance, dispatch=dispatch)
        self._append([self._event(job, attempt_begun=begun)])
        return None

    def renew(self, job_id: str, lease_id: str) -> None:
        job = self.jobs[job_id]
        if job.lease_id == lease_id and job.lease_end > now_micros():
            job.lease_end = now_micros() + self.lease_micros

    def succeed(self, job_id: str, lease_id: str) -> bool:
        """Commit; False for a lease that was superseded."""
        job = self.jobs[job_id]
        if job.lease_id != lease_id or job.state != states.JOB_STATE_RUNNING:
            return False
        job.state = states.JOB_STATE_SUCCEEDED
        self._append([self._event(job, job_succeeded=JobSucceeded(epoch=job.epoch))])
        return True

    def retry(self, job_id: str, seconds: float) -> None:
        """End the attempt badly: another follows after a delay."""
        job = self.jobs[job_id]
        job.routing.dispatch += 1
        job.routing.run_time_micros = now_micros() + round(seconds * 1e6)
        job.state = states.JOB_STATE_SCHEDULED if seconds > 0 else states.JOB_STATE_QUEUED
        job.changed = now_micros()
        failed = AttemptFailed(epoch=job.epoch, routing=job.routing)
        self._append([self._event(job, attempt_failed=failed)])

    def request_cancel(self, job_id: str) -> None:
        job = self.jobs[job_id]
        self._append([self._event(job, cancel_requested=CancelRequested(reason="enough"))])

    async def grown(self) -> None:
        """Return when something happened."""
        await self._grown.wait()

    def fork(self) -> None:
        """Lose the newest block and have another in its place, as after restoring a backup."""
        self.blocks[-1].hash = b"another"

    # The contract.

    async def TailBlocks(
        self, request: feed.TailBlocksRequest, context: Any
    ) -> AsyncIterator[feed.TailBlocksResponse]:
        height = 0
        for position in request.after:
            height = position.height
            if height and (height > len(self.blocks) or self.blocks[height - 1].hash != position.hash):
                raise errors.aborted("FEED_DIVERGED", "no such block")
        while True:
            grown = self._grown
            if height < len(self.blocks):
                part = self.blocks[height : height + 64]
                height += len(part)
                yield feed.TailBlocksResponse(blocks=part)
            else:
                await grown.wait()

    async def GetHeads(self, request: feed.GetHeadsRequest, context: Any) -> feed.GetHeadsResponse:
        return feed.GetHeadsResponse(heads=self._heads())

    async def GetCursor(self, request: feed.GetCursorRequest, context: Any) -> feed.GetCursorResponse:
        return self.cursor

    async def StreamLiveJobs(
        self, request: reads.StreamLiveJobsRequest, context: Any
    ) -> AsyncIterator[reads.StreamLiveJobsResponse]:
        self.live_reads += 1
        yield reads.StreamLiveJobsResponse(heads=self._heads())
        before = request.runnable_before_micros
        live = [self._live(job) for job in self.jobs.values() if job.state <= states.JOB_STATE_PAUSED]
        wanted = [job for job in live if not before or job.runnable_time_micros < before]
        for start in range(0, len(wanted), 512):
            yield reads.StreamLiveJobsResponse(jobs=wanted[start : start + 512])

    async def AcquireSingleton(
        self, request: writes.AcquireSingletonRequest, context: Any
    ) -> writes.AcquireSingletonResponse:
        if not self.reachable:
            raise errors.unavailable("DEPENDENCY_DOWN", "out of reach")
        now = now_micros()
        if self.holder != request.holder:
            if self.lease_until > now:
                raise errors.aborted("SINGLETON_HELD", f"{self.holder} has it")
            self.holder = request.holder
            self.epoch += 1
        self.lease_until = now + request.lease_micros
        return writes.AcquireSingletonResponse(epoch=self.epoch, expire_time_micros=self.lease_until)

    async def ReleaseSingleton(
        self, request: writes.ReleaseSingletonRequest, context: Any
    ) -> writes.ReleaseSingletonResponse:
        if (request.holder, request.epoch) == (self.holder, self.epoch):
            self.holder, self.lease_until = "", 0
        return writes.ReleaseSingletonResponse()

    async def StoreCursor(
        self, request: writes.StoreCursorRequest, context: Any
    ) -> writes.StoreCursorResponse:
        if request.epoch != self.epoch:
            raise errors.aborted("STALE_EPOCH", "not the current holder")
        self.cursor = feed.GetCursorResponse(
            positions=request.positions, data=request.data, epoch=request.epoch
        )
        return writes.StoreCursorResponse()

    # Inside.

    def _refusal(self, job: ScriptedJob | None, dispatch: int, lease_id: str) -> writes.AttemptRefusal | None:
        reasons = writes.AttemptRefusal
        now = now_micros()
        if job is None or job.state > states.JOB_STATE_PAUSED:
            return reasons(reason=reasons.REASON_TERMINAL)
        if dispatch != job.routing.dispatch:
            return reasons(reason=reasons.REASON_SUPERSEDED)
        if job.state == states.JOB_STATE_RUNNING and job.lease_id != lease_id:
            free = job.lease_end + self.allowance_micros
            if free > now:
                return reasons(reason=reasons.REASON_LEASE_HELD, retry_time_micros=free)
        if job.routing.run_time_micros > now:
            return reasons(reason=reasons.REASON_NOT_DUE, retry_time_micros=job.routing.run_time_micros)
        return None

    def _live(self, job: ScriptedJob) -> reads.LiveJob:
        routing = Routing()
        routing.CopyFrom(job.routing)
        if job.state == states.JOB_STATE_RUNNING:
            routing.run_time_micros = job.lease_end + self.allowance_micros
        runnable = max(job.changed, routing.run_time_micros)
        return reads.LiveJob(
            job_id=job.job_id,
            client_id=CLIENT,
            routing=routing,
            state=job.state,
            runnable_time_micros=runnable,
        )

    def _event(self, job: ScriptedJob, **payload: Any) -> bytes:
        job.seq += 1
        event = Event(job_id=job.job_id, seq=job.seq, time_micros=now_micros(), client_id=CLIENT, **payload)
        return event.SerializeToString()

    def _append(self, events: list[bytes]) -> None:
        height = len(self.blocks) + 1
        block_hash = digest(b"%d" % height + b"".join(events))
        block = Block(
            chain=1,
            height=height,
            timeline=1,
            hash=block_hash,
            time_micros=now_micros(),
            event_count=len(events),
            events=events,
        )
        self.blocks.append(block)
        self._grown.set()
        self._grown = asyncio.Event()

    def _heads(self) -> list[Position]:
        if not self.blocks:
            return []
        last = self.blocks[-1]
        return [Position(timeline=1, chain=1, height=last.height, hash=last.hash)]
