"""The client of a run: submits jobs over StreamJobs, hears of their ends, and exports the log."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import grpc

from workmesh import errors
from workmesh.export import write_record
from workmesh.gateway.v1 import audit_service_pb2
from workmesh.gateway.v1.audit_service_pb2_grpc import AuditServiceStub
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission, SubmissionResult
from workmesh.gateway.v1.job_service_pb2 import StreamJobsRequest, StreamJobsResponse
from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceStub
from workmesh.rpc.client import open_stream_channel

if TYPE_CHECKING:
    from workmesh.gateway.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceAsyncStub

    Call = grpc.aio.StreamStreamCall[StreamJobsRequest, StreamJobsResponse]

CHUNK: Final = 100
EXPORT_SECONDS: Final = 120.0
_AGAIN_SECONDS: Final = (0.2, 1.0)
_AGAIN_CODES: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)

OnEnd = Callable[[JobSubmission, Job], None]


class SubmissionRefused(Exception):
    """The gateway refused a job for good."""


class FreightClient:
    """One client of the mesh, through the edge."""

    def __init__(self, edge_address: str, token: str, random: Random) -> None:
        self._channel = open_stream_channel(edge_address)
        self._jobs: JobServiceAsyncStub = JobServiceStub(self._channel)
        self._audit: AuditServiceAsyncStub = AuditServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._random = random

    async def close(self) -> None:
        await self._channel.close()

    def stream(self, capacity: int, on_end: OnEnd) -> JobStream:
        """Opens a bulk submission of at most `capacity` jobs."""
        return JobStream(self._jobs, self._metadata, capacity, on_end, self._random)

    async def export(self, path: Path) -> None:
        """Writes the whole log to a file."""
        call = self._audit.ExportBlocks(
            audit_service_pb2.ExportBlocksRequest(), metadata=self._metadata, timeout=EXPORT_SECONDS
        )
        with path.open("wb") as file:
            async for response in call:
                for record in response.records:
                    write_record(file, record)


class JobStream:
    """Jobs submitted over one StreamJobs call after another.

    When a call breaks, the next submits again what has no end yet: the same request_id gives the same job.
    """

    def __init__(
        self,
        jobs: JobServiceAsyncStub,
        metadata: tuple[tuple[str, str], ...],
        capacity: int,
        on_end: OnEnd,
        random: Random,
    ) -> None:
        self._jobs = jobs
        self._metadata = metadata
        self._on_end = on_end
        self._random = random
        self._queue: asyncio.Queue[Sequence[JobSubmission] | None] = asyncio.Queue(2 * capacity + 2)
        self._open: dict[str, JobSubmission] = {}
        self._accepted: dict[str, str] = {}
        self._early: dict[str, Job] = {}
        self._unaccepted: set[str] = set()
        self._finished = self._closed = False
        self.all_accepted = asyncio.Event()

    def submit(self, jobs: Sequence[JobSubmission]) -> None:
        """Hands jobs over; they leave in chunks."""
        self._unaccepted.update(job.request_id for job in jobs)
        self.all_accepted.clear()
        for chunk in _chunks(jobs):
            self._queue.put_nowait(chunk)

    def finish(self) -> None:
        """Says that nothing more will be submitted: `run` returns once every job has ended."""
        self._finished = True
        self._close_if_done()

    async def run(self) -> None:
        """Submits and listens until every job has ended; raises SubmissionRefused or AioRpcError."""
        while True:
            try:
                await self._call()
            except grpc.aio.AioRpcError as error:
                if errors.from_rpc_error(error).code not in _AGAIN_CODES:
                    raise
            if self._done:
                return
            await asyncio.sleep(self._random.uniform(*_AGAIN_SECONDS))

    async def _call(self) -> None:
        call = self._jobs.StreamJobs(metadata=self._metadata)
        writer = asyncio.create_task(self._write(call))
        try:
            async for response in call:
                for result in response.results:
                    self._take_result(result)
                for job in response.completions:
                    self._take_end(job)
        finally:
            # Not left to the call: its writer would stay and take jobs meant for the next one.
            writer.cancel()
            call.cancel()
            await asyncio.wait([writer])
            if not writer.cancelled():
                writer.result()

    async def _write(self, call: Call) -> None:
        try:
            for chunk in _chunks(list(self._open.values())):
                await call.write(StreamJobsRequest(jobs=chunk, completions=True))
            while (jobs := await self._queue.get()) is not None:
                self._open.update((job.request_id, job) for job in jobs)
                await call.write(StreamJobsRequest(jobs=jobs, completions=True))
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the call is over: whoever reads it hears why

    def _take_result(self, result: SubmissionResult) -> None:
        job = self._open.get(result.request_id)
        if job is None:
            return  # ended, and heard of by an earlier call
        if not errors.is_ok(result.status):
            self._refused(job, result)
            return
        self._accepted[result.job_id] = result.request_id
        self._unaccepted.discard(result.request_id)
        if not self._unaccepted:
            self.all_accepted.set()
        if early := self._early.pop(result.job_id, None):
            self._take_end(early)

    def _refused(self, job: JobSubmission, result: SubmissionResult) -> None:
        error = errors.from_status(result.status)
        if error.code not in _AGAIN_CODES:
            raise SubmissionRefused(f"{job.labels}: {error}")
        delay = error.retry_after or self._random.uniform(*_AGAIN_SECONDS)
        asyncio.get_running_loop().call_later(delay, self._queue.put_nowait, [job])

    def _take_end(self, job: Job) -> None:
        request_id = self._accepted.get(job.job_id)
        if request_id is None:
            self._early[job.job_id] = job
            return
        submission = self._open.pop(request_id, None)
        if submission is not None:
            self._on_end(submission, job)
            self._close_if_done()

    @property
    def _done(self) -> bool:
        return self._finished and not self._open and not self._unaccepted

    def _close_if_done(self) -> None:
        if self._done and not self._closed:
            self._closed = True
            self._queue.put_nowait(None)


def _chunks(jobs: Sequence[JobSubmission]) -> list[Sequence[JobSubmission]]:
    return [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
