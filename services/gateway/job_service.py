"""workmesh.gateway.v1.JobService: validate, call, convert."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from services.gateway.bulk import MOST_JOBS, BulkCall
from services.gateway.convert import to_job
from services.gateway.identity import Caller, identify
from services.gateway.intake import Intake, to_result
from services.gateway.ledger import Ledger
from services.gateway.watches import TERMINAL, JobWatch, Watches
from workmesh import errors
from workmesh.errors import Violation
from workmesh.gateway.v1 import job_service_pb2 as pb
from workmesh.gateway.v1.job_pb2 import SubmissionResult
from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceServicer
from workmesh.ids import is_uuid
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.ledger.v1.ledger_read_service_pb2 import ListJobsRequest
from workmesh.telemetry import Telemetry

Context = grpc.aio.ServicerContext[Any, Any]

MOST_REASON_LENGTH = 256
SIGN_OF_LIFE_SECONDS = 15.0


class JobService(JobServiceServicer):
    """Submits, follows and ends the caller's jobs."""

    def __init__(
        self,
        intake: Intake,
        ledger: Ledger,
        watches: Watches,
        spans: Telemetry,
        *,
        max_stream_open_jobs: int,
    ) -> None:
        self._intake = intake
        self._ledger = ledger
        self._watches = watches
        self._spans = spans
        self._max_stream_open_jobs = max_stream_open_jobs

    async def SubmitJob(self, request: pb.SubmitJobRequest, context: Context) -> pb.SubmitJobResponse:
        caller = identify(context)
        if not request.HasField("job"):
            raise errors.invalid_argument("job is missing", Violation("job", "is missing"))
        with self._spans.span("SubmitJob", caller.traceparent) as traceparent:
            job = await self._intake.check(request.job, replace(caller, traceparent=traceparent), "job")
            (outcome,) = await self._intake.create([job])
        result = to_result(outcome, job.request_id)
        _raise(result)
        return pb.SubmitJobResponse(job_id=result.job_id, existing=result.existing)

    async def SubmitJobs(self, request: pb.SubmitJobsRequest, context: Context) -> pb.SubmitJobsResponse:
        caller = identify(context)
        if not 1 <= len(request.jobs) <= MOST_JOBS:
            described = f"has not 1 to {MOST_JOBS} entries"
            raise errors.invalid_argument(f"jobs {described}", Violation("jobs", described))
        outcomes = await self._intake.create(await self._intake.check_all(request.jobs, caller, "jobs"))
        return pb.SubmitJobsResponse(
            results=[
                to_result(outcome, job.request_id)
                for outcome, job in zip(outcomes, request.jobs, strict=True)
            ]
        )

    async def StreamJobs(
        self, request_iterator: AsyncIterator[pb.StreamJobsRequest], context: Context
    ) -> AsyncIterator[pb.StreamJobsResponse]:
        call = BulkCall(
            identify(context), self._intake, self._ledger, self._watches, most_open=self._max_stream_open_jobs
        )
        async for response in call.run(request_iterator):
            yield response

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        record = await self._find(request.job_id, identify(context))
        return pb.GetJobResponse(job=to_job(record))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        caller = identify(context)
        if request.page_size < 0:
            raise errors.invalid_argument("page_size is negative", Violation("page_size", "is negative"))
        response = await self._ledger.list_jobs(
            ListJobsRequest(
                client_id=caller.client_id,
                agent=request.agent,
                states=request.states,
                labels=request.labels,
                lane=request.lane,
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        return pb.ListJobsResponse(jobs=map(to_job, response.jobs), next_page_token=response.next_page_token)

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        caller = identify(context)
        seen = _resume_seq(request.resume_token)
        with JobWatch(self._watches, _job_id(request.job_id)) as watch:
            while True:
                record = await self._outcome(request.job_id, caller)
                if record.seq > seen or record.state in TERMINAL:
                    seen = record.seq
                    yield pb.WatchJobResponse(job=to_job(record), resume_token=str(seen))
                if record.state in TERMINAL:
                    return
                while not await watch.wait_after(seen, SIGN_OF_LIFE_SECONDS):
                    yield pb.WatchJobResponse(resume_token=str(seen))

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        caller = identify(context)
        if len(request.reason) > MOST_REASON_LENGTH or "\0" in request.reason:
            described = f"is longer than {MOST_REASON_LENGTH} characters or holds U+0000"
            raise errors.invalid_argument(f"reason {described}", Violation("reason", described))
        job_id = _job_id(request.job_id)
        await self._ledger.cancel_job(job_id, caller.client_id, request.reason)
        record = await self._find(job_id, caller)
        record.ClearField("input")
        record.ClearField("output")
        return pb.CancelJobResponse(job=to_job(record))

    async def _find(self, job_id: str, caller: Caller) -> JobRecord:
        return _own(await self._ledger.get_job(_job_id(job_id)), job_id, caller)

    async def _outcome(self, job_id: str, caller: Caller) -> JobRecord:
        (record,) = await self._ledger.get_outcomes((job_id,))
        return _own(record, job_id, caller)


def _own(record: JobRecord | None, job_id: str, caller: Caller) -> JobRecord:
    if record is None or record.client_id != caller.client_id:
        raise errors.not_found("job", job_id)
    return record


def _job_id(text: str) -> str:
    if not is_uuid(text):
        raise errors.invalid_argument("job_id is not a UUID", Violation("job_id", "is not a UUID"))
    return text


def _resume_seq(token: str) -> int:
    if not token:
        return 0
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise errors.invalid_argument(
            "resume_token was not given by this service",
            Violation("resume_token", "was not given by this service"),
        )
    return int(token)


def _raise(result: SubmissionResult) -> None:
    if not errors.is_ok(result.status):
        raise errors.from_status(result.status)
