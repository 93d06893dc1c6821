from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import grpc
import pytest

from examples.freight.demonstration.load import FreightClient, SubmissionRefused
from workmesh import errors
from workmesh.common.v1.job_pb2 import JOB_STATE_SUCCEEDED
from workmesh.export import read_export
from workmesh.gateway.v1.audit_service_pb2 import ExportBlocksRequest, ExportBlocksResponse
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission, SubmissionResult
from workmesh.gateway.v1.job_service_pb2 import StreamJobsRequest, StreamJobsResponse
from workmesh.ledger.v1.block_pb2 import ExportFooter, ExportHeader, ExportRecord

Context = grpc.aio.ServicerContext[StreamJobsRequest, StreamJobsResponse]
Answer = Callable[[int, JobSubmission, Context], Awaitable[StreamJobsResponse]]


def accepted(job: JobSubmission) -> SubmissionResult:
    return SubmissionResult(request_id=job.request_id, job_id=f"job-{job.request_id}")


def ended(job: JobSubmission) -> Job:
    return Job(job_id=f"job-{job.request_id}", state=JOB_STATE_SUCCEEDED)


def refused(job: JobSubmission, error: errors.MeshError) -> StreamJobsResponse:
    return StreamJobsResponse(
        results=[SubmissionResult(request_id=job.request_id, status=errors.to_status(error))]
    )


class ScriptedJobs:
    """A gateway that answers each submitted job as a test says; `calls` holds the request_ids of each."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[list[str]] = []
        self.tokens: set[str] = set()

    async def stream_jobs(
        self, requests: AsyncIterator[StreamJobsRequest], context: Context
    ) -> AsyncIterator[StreamJobsResponse]:
        self.calls.append([])
        number = len(self.calls)
        self.tokens |= {
            str(value) for key, value in context.invocation_metadata() or () if key == "authorization"
        }
        async for request in requests:
            assert request.completions
            for job in request.jobs:
                self.calls[number - 1].append(job.request_id)
                yield await self.answer(number, job, context)


async def export_blocks(request: ExportBlocksRequest, context: object) -> AsyncIterator[ExportBlocksResponse]:
    yield ExportBlocksResponse(records=[ExportRecord(header=ExportHeader(format=1))])
    yield ExportBlocksResponse(records=[ExportRecord(footer=ExportFooter())])


@asynccontextmanager
async def client_of(jobs: ScriptedJobs) -> AsyncIterator[FreightClient]:
    stream_jobs = grpc.stream_stream_rpc_method_handler(
        jobs.stream_jobs, StreamJobsRequest.FromString, StreamJobsResponse.SerializeToString
    )
    export = grpc.unary_stream_rpc_method_handler(
        export_blocks, ExportBlocksRequest.FromString, ExportBlocksResponse.SerializeToString
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "workmesh.gateway.v1.JobService", {"StreamJobs": stream_jobs}
            ),
            grpc.method_handlers_generic_handler(
                "workmesh.gateway.v1.AuditService", {"ExportBlocks": export}
            ),
        )
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = FreightClient(f"127.0.0.1:{port}", "token", Random(1))
    try:
        yield client
    finally:
        await client.close()
        await server.stop(0)


async def run_all(jobs: ScriptedJobs, count: int) -> list[str]:
    """Submits so many jobs and returns the request_ids in the order of their ends."""
    ends: list[str] = []
    async with client_of(jobs) as client:
        stream = client.stream(count, lambda job, _: ends.append(job.request_id))
        stream.submit([JobSubmission(request_id=f"r{number}") for number in range(count)])
        stream.finish()
        await asyncio.wait_for(stream.run(), 20)
        assert stream.all_accepted.is_set()
    return ends


async def test_every_job_is_submitted_once_and_its_end_is_heard() -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        return StreamJobsResponse(results=[accepted(job)], completions=[ended(job)])

    jobs = ScriptedJobs(answer)
    ends = await run_all(jobs, 250)
    assert ends == jobs.calls[0] == [f"r{number}" for number in range(250)]
    assert jobs.tokens == {"Bearer token"}


async def test_an_end_that_comes_before_its_acceptance_counts() -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        if job.request_id == "r0":
            return StreamJobsResponse(completions=[ended(JobSubmission(request_id="r1"))])
        early = [accepted(JobSubmission(request_id="r0")), accepted(job)]
        return StreamJobsResponse(results=early, completions=[ended(JobSubmission(request_id="r0"))])

    assert await run_all(ScriptedJobs(answer), 2) == ["r1", "r0"]


async def test_after_a_broken_call_what_has_no_end_is_submitted_again() -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        if number == 1 and job.request_id == "r3":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return StreamJobsResponse(results=[accepted(job)], completions=[ended(job)])

    jobs = ScriptedJobs(answer)
    ends = await run_all(jobs, 6)
    assert sorted(ends) == [f"r{number}" for number in range(6)]
    assert len(ends) == len(set(ends))
    assert jobs.calls[0] == ["r0", "r1", "r2", "r3"]
    assert {"r3", "r4", "r5"} <= set(jobs.calls[1])


async def test_a_full_queue_is_asked_again() -> None:
    seen: set[str] = set()

    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        if job.request_id == "r1" and job.request_id not in seen:
            seen.add(job.request_id)
            return refused(job, errors.resource_exhausted("QUEUE_FULL", "full", retry_after=0.05))
        return StreamJobsResponse(results=[accepted(job)], completions=[ended(job)])

    assert await run_all(ScriptedJobs(answer), 3) == ["r0", "r2", "r1"]


async def test_a_job_refused_for_good_ends_the_run() -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        return refused(job, errors.not_found("agent", "document"))

    with pytest.raises(SubmissionRefused, match="document"):
        await run_all(ScriptedJobs(answer), 1)


async def test_missing_rights_are_not_asked_again() -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    jobs = ScriptedJobs(answer)
    with pytest.raises(grpc.aio.AioRpcError, match="PERMISSION_DENIED"):
        await run_all(jobs, 1)
    assert len(jobs.calls) == 1


async def test_the_export_is_written_record_by_record(tmp_path: Path) -> None:
    async def answer(number: int, job: JobSubmission, context: Context) -> StreamJobsResponse:
        return StreamJobsResponse()

    async with client_of(ScriptedJobs(answer)) as client:
        await client.export(tmp_path / "log.export")
    assert [record.WhichOneof("record") for record in read_export(tmp_path / "log.export")] == [
        "header",
        "footer",
    ]
