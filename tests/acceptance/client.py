"""A client of the mesh as the tests need it: every call through Envoy, errors with their details."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
import orjson
import pytest

from workmesh import errors
from workmesh.errors import MeshError
from workmesh.gateway.v1 import (
    audit_service_pb2_grpc,
    definition_service_pb2_grpc,
    job_service_pb2_grpc,
    state_service_pb2_grpc,
)
from workmesh.gateway.v1 import job_service_pb2 as pb
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission, SubmissionResult
from workmesh.payload import json_to_struct
from workmesh.rpc.client import open_stream_channel

if TYPE_CHECKING:
    from workmesh.gateway.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from workmesh.gateway.v1.definition_service_pb2_grpc import DefinitionServiceAsyncStub
    from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceAsyncStub
    from workmesh.gateway.v1.state_service_pb2_grpc import StateServiceAsyncStub

CALL_SECONDS = 30.0
JOB_SECONDS = 90.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Metadata:
    """What a call carries."""

    token: str
    more: tuple[tuple[str, str], ...] = ()

    def pairs(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"), *self.more) if self.token else self.more


class MeshClient:
    """One client of the mesh; `async with MeshClient(edge, token) as client`."""

    def __init__(self, address: str, token: str, more: Sequence[tuple[str, str]] = ()) -> None:
        self.channel = open_stream_channel(address)
        self.jobs: JobServiceAsyncStub = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.definitions: DefinitionServiceAsyncStub = definition_service_pb2_grpc.DefinitionServiceStub(
            self.channel
        )
        self.state: StateServiceAsyncStub = state_service_pb2_grpc.StateServiceStub(self.channel)
        self.audit: AuditServiceAsyncStub = audit_service_pb2_grpc.AuditServiceStub(self.channel)
        self.metadata = Metadata(token, tuple(more)).pairs()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.channel.close()

    async def submit(self, job: JobSubmission) -> str:
        """Submit one job and return its id."""
        response = await self.jobs.SubmitJob(
            pb.SubmitJobRequest(job=job), metadata=self.metadata, timeout=CALL_SECONDS
        )
        return response.job_id

    async def submit_all(self, jobs: Sequence[JobSubmission]) -> list[SubmissionResult]:
        """Submit many jobs in one call."""
        response = await self.jobs.SubmitJobs(
            pb.SubmitJobsRequest(jobs=jobs), metadata=self.metadata, timeout=CALL_SECONDS
        )
        return list(response.results)

    async def get(self, job_id: str) -> Job:
        """Return a job."""
        response = await self.jobs.GetJob(
            pb.GetJobRequest(job_id=job_id), metadata=self.metadata, timeout=CALL_SECONDS
        )
        return response.job

    async def watch(self, job_id: str, resume_token: str = "") -> AsyncIterator[pb.WatchJobResponse]:
        """Watch a job to its end."""
        request = pb.WatchJobRequest(job_id=job_id, resume_token=resume_token)
        async for response in self.jobs.WatchJob(request, metadata=self.metadata, timeout=JOB_SECONDS):
            yield response

    async def result(self, job_id: str) -> Job:
        """Return a job once it is terminal."""
        last = Job()
        async for response in self.watch(job_id):
            if response.HasField("job"):
                last = response.job
        return last

    async def cancel(self, job_id: str, reason: str = "") -> Job:
        """Cancel a job."""
        request = pb.CancelJobRequest(job_id=job_id, reason=reason, request_id=str(uuid.uuid4()))
        return (await self.jobs.CancelJob(request, metadata=self.metadata, timeout=CALL_SECONDS)).job


def submission(agent: str, document: dict[str, Any], **fields: Any) -> JobSubmission:
    """Return a submission with a fresh request_id."""
    job = JobSubmission(agent=agent, **{"request_id": str(uuid.uuid4()), **fields})
    json_to_struct(orjson.dumps(document), job.input)
    return job


async def refused(call: Awaitable[Answer]) -> MeshError:
    """Return the error that a call must end with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc_error(caught.value)


def status_of(result: SubmissionResult) -> MeshError:
    """Return the error that a submission of a batch ended with."""
    assert result.status.code, "the submission was accepted"
    return errors.from_status(result.status)
