"""The ledger as the gateway uses it: writes and reads of many callers gathered into batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc
from google.rpc.status_pb2 import Status

from workmesh import errors
from workmesh.batching import Batcher
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.ledger.v1 import ledger_read_service_pb2 as reads
from workmesh.ledger.v1 import ledger_write_service_pb2 as writes
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub

if TYPE_CHECKING:
    from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceAsyncStub
    from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceAsyncStub

Answer = TypeVar("Answer")

_logger = logging.getLogger(__name__)

NIL_JOB_ID: Final = "00000000-0000-0000-0000-000000000000"

# Room that a NewJob takes beside its input and labels.
_JOB_OVERHEAD: Final = 512
_PROBE_SECONDS: Final = 2.0
_PROBE_PAUSE_SECONDS: Final = 0.1


class Ledger:
    """Calls to the ledger. Every method raises MeshError; each call has the given deadline in seconds."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        instance: str,
        timeout: float,
        create_pace: float,
        create_flights: int,
        read_flights: int,
    ) -> None:
        self._writes: LedgerWriteServiceAsyncStub = LedgerWriteServiceStub(channel)
        self._reads: LedgerReadServiceAsyncStub = LedgerReadServiceStub(channel)
        self._instance = instance
        self._timeout = timeout
        self._creates: Batcher[writes.NewJob, writes.CreateJobResult] = Batcher(
            self._create,
            name="submissions",
            size_of=lambda job: len(job.input) + _JOB_OVERHEAD,
            flights=create_flights,
            pace=create_pace,
        )
        self._full_reads: Batcher[str, JobRecord | None] = Batcher(
            self._read_full, name="job_reads", max_items=64, flights=read_flights
        )
        self._outcome_reads: Batcher[str, JobRecord | None] = Batcher(
            self._read_outcomes, name="outcome_reads", max_items=128, flights=read_flights
        )

    async def create_jobs(self, jobs: Sequence[writes.NewJob]) -> list[writes.CreateJobResult]:
        """Create jobs; one result per job, in order."""
        return await self._creates.submit(jobs)

    async def get_job(self, job_id: str) -> JobRecord | None:
        """Return a job with both bodies, of whichever client."""
        return await self._full_reads.call(job_id)

    async def get_outcomes(self, job_ids: Sequence[str]) -> list[JobRecord | None]:
        """Return jobs with outputs but without inputs, in order, of whichever client."""
        return await self._outcome_reads.submit(job_ids)

    async def get_heads(self, job_ids: Sequence[str]) -> list[JobRecord]:
        """Return those of up to 1,000 jobs that exist, without bodies."""
        request = reads.GetJobsRequest(job_ids=job_ids)
        return list((await self._call(self._reads.GetJobs(request, timeout=self._timeout))).jobs)

    async def list_jobs(self, request: reads.ListJobsRequest) -> reads.ListJobsResponse:
        """List jobs."""
        return await self._call(self._reads.ListJobs(request, timeout=self._timeout))

    async def cancel_job(self, job_id: str, client_id: str, reason: str) -> None:
        """Cancel a job of the client; NOT_FOUND or FAILED_PRECONDITION JOB_TERMINAL."""
        request = writes.CancelJobsRequest(
            jobs=[writes.CancelJob(job_id=job_id, client_id=client_id, reason=reason)],
            actor=self._client(client_id),
        )
        response = await self._call(self._writes.CancelJobs(request, timeout=self._timeout))
        _raise_status(response.results[0].status)

    async def apply_definition(
        self, definition: AgentDefinition, client_id: str
    ) -> writes.ApplyDefinitionResult:
        """Apply a definition on behalf of an operator."""
        actor = Actor(kind=Actor.KIND_OPERATOR, id=client_id, instance=self._instance)
        request = writes.ApplyDefinitionsRequest(definitions=[definition], actor=actor)
        response = await self._call(self._writes.ApplyDefinitions(request, timeout=self._timeout))
        _raise_status(response.results[0].status)
        return response.results[0]

    async def get_definition(self, agent: str, version: int) -> AgentDefinition | None:
        """Return a version of an agent, its default for 0, or None."""
        request = reads.GetDefinitionsRequest(definitions=[reads.DefinitionRef(agent=agent, version=version)])
        response = await self._call(self._reads.GetDefinitions(request, timeout=self._timeout))
        return response.definitions[0] if response.definitions else None

    async def list_definitions(self, request: reads.ListDefinitionsRequest) -> reads.ListDefinitionsResponse:
        """List definitions."""
        return await self._call(self._reads.ListDefinitions(request, timeout=self._timeout))

    async def get_state(self, ref: reads.StateRef) -> reads.GetStatesResponse:
        """Return a state document."""
        return await self._call(
            self._reads.GetStates(reads.GetStatesRequest(refs=[ref]), timeout=self._timeout)
        )

    async def list_states(self, request: reads.ListStatesRequest) -> reads.ListStatesResponse:
        """List state documents."""
        return await self._call(self._reads.ListStates(request, timeout=self._timeout))

    @property
    def batchers(self) -> dict[str, Batcher[Any, Any]]:
        """The batchers by name, for their metrics."""
        return {each.name: each for each in (self._creates, self._full_reads, self._outcome_reads)}

    async def wait_until_ready(self) -> None:
        """Return once the ledger answers."""
        request = reads.GetJobsRequest(job_ids=[NIL_JOB_ID])
        while True:
            try:
                await self._call(self._reads.GetJobs(request, timeout=_PROBE_SECONDS, wait_for_ready=True))
                return
            except errors.MeshError as error:
                _logger.info(
                    "the ledger does not answer yet", extra={"action": "ledger_probed", "error": str(error)}
                )
                await asyncio.sleep(_PROBE_PAUSE_SECONDS)

    async def close(self) -> None:
        """Answer what is queued and take nothing more."""
        for batcher in (self._creates, self._full_reads, self._outcome_reads):
            await batcher.close()

    async def _create(self, jobs: list[writes.NewJob]) -> Sequence[writes.CreateJobResult]:
        request = writes.CreateJobsRequest(jobs=jobs, instance=self._instance)
        return (await self._call(self._writes.CreateJobs(request, timeout=self._timeout))).results

    async def _read_full(self, job_ids: list[str]) -> list[JobRecord | None]:
        return await self._read(job_ids, with_input=True)

    async def _read_outcomes(self, job_ids: list[str]) -> list[JobRecord | None]:
        return await self._read(job_ids, with_input=False)

    async def _read(self, job_ids: list[str], *, with_input: bool) -> list[JobRecord | None]:
        request = reads.GetJobsRequest(job_ids=job_ids, with_input=with_input, with_output=True)
        try:
            response = await self._call(self._reads.GetJobs(request, timeout=self._timeout))
        except errors.MeshError as error:
            if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or len(job_ids) == 1:
                raise
            # Bodies of up to 1 MiB each: together they were more than a message may hold.
            half = len(job_ids) // 2
            first = await self._read(job_ids[:half], with_input=with_input)
            return first + await self._read(job_ids[half:], with_input=with_input)
        found = {job.job_id: job for job in response.jobs}
        return [found.get(job_id) for job_id in job_ids]

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error

    def _client(self, client_id: str) -> Actor:
        return Actor(kind=Actor.KIND_CLIENT, id=client_id, instance=self._instance)


def _raise_status(status: Status) -> None:
    if not errors.is_ok(status):
        raise errors.from_status(status)
