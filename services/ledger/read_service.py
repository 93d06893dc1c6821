"""LedgerReadService: validates, reads, converts.

reader = ReadPool(await open_pool(url, Role.READER, application, size))
service = ReadService(
    JobReads(reader, clock_allowance_micros=allowance), DefinitionReads(reader), StateReads(reader)
)
...
await service.close()
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, TypeAlias

import grpc

from services.ledger.byte_pages import BytePage
from services.ledger.definition_reads import DefinitionReads
from services.ledger.job_records import job_record, journal_step, recorded_event, state_document
from services.ledger.page_tokens import make_token, page_size_of, read_token
from services.ledger.read_checks import Checks
from services.ledger.reads import JobAsk, JobFilter, JobReads, LiveFilter
from services.ledger.state_reads import StateKey, StateReads
from workmesh import errors, metrics
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.ledger.v1 import ledger_read_service_pb2 as pb
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceServicer

MAX_RESPONSE_BYTES: Final = (4 << 20) - (64 << 10)
"""What fits in a message, with room for its framing."""

_MAX_JOBS: Final = 1_000
_MAX_REFS: Final = 256
_RETRY_AFTER: Final = 0.05

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class ReadService(LedgerReadServiceServicer):
    """Reads of the mesh's state; constructed with what reads jobs, definitions and state documents."""

    def __init__(self, jobs: JobReads, definitions: DefinitionReads, states: StateReads) -> None:
        self._jobs = jobs
        self._definitions = definitions
        self._states = states
        metrics.watch_batcher("ledger", "ledger_get_jobs", jobs.stats)
        metrics.watch_batcher("ledger", "ledger_get_states", states.stats)

    async def close(self) -> None:
        """Answer the look-ups under way and take no more."""
        await self._jobs.close()
        await self._states.close()

    async def GetJobs(self, request: pb.GetJobsRequest, context: Context) -> pb.GetJobsResponse:
        checks = Checks()
        checks.count(len(request.job_ids), "job_ids", _MAX_JOBS)
        checks.job_ids(request.job_ids)
        checks.name_or_empty(request.client_id, "client_id")
        checks.done()
        client_id, with_input, with_output = request.client_id, request.with_input, request.with_output
        asks = [JobAsk(job_id, client_id, with_input, with_output) for job_id in request.job_ids]
        response = pb.GetJobsResponse()
        add = response.jobs.add
        size = 0
        for found in await self._jobs.get(asks):
            if found is not None:
                size += len(found.input or b"") + len(found.output or b"")
                if found.withheld or size > MAX_RESPONSE_BYTES:
                    raise _too_large()
                job_record(found.row, found.input, found.output, add)
        return response

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        checks = Checks()
        checks.name_or_empty(request.client_id, "client_id")
        checks.name_or_empty(request.agent, "agent")
        checks.states(request.states)
        checks.labels(request.labels)
        checks.lane(request.lane)
        checks.done()
        size = page_size_of(request.page_size)
        last = read_token(request, request.page_token, str)
        below = str(last[0]) if last else None
        if below is not None:
            checks.job_id(below, "page_token")
            checks.done()
        wanted = JobFilter(
            request.client_id, request.agent, tuple(request.states), request.labels, request.lane
        )
        rows = await self._jobs.page(wanted, below, size + 1)
        response = pb.ListJobsResponse()
        for row in rows[:size]:
            job_record(row, make=response.jobs.add)
        if len(rows) > size:
            response.next_page_token = make_token(request, [response.jobs[-1].job_id])
        return response

    async def GetJobHistory(
        self, request: pb.GetJobHistoryRequest, context: Context
    ) -> pb.GetJobHistoryResponse:
        checks = Checks()
        checks.job_id(request.job_id)
        checks.name_or_empty(request.client_id, "client_id")
        checks.done()
        history = await self._jobs.history(request.job_id, request.client_id)
        if history is None:
            raise errors.not_found("job", request.job_id)
        response = pb.GetJobHistoryResponse(
            job=job_record(history.job),
            journal=[journal_step(row) for row in history.steps],
            events=[recorded_event(row) for row in history.events],
        )
        if response.ByteSize() > MAX_RESPONSE_BYTES:
            raise _too_large()
        return response

    async def GetDefinitions(
        self, request: pb.GetDefinitionsRequest, context: Context
    ) -> pb.GetDefinitionsResponse:
        checks = Checks()
        checks.count(len(request.definitions), "definitions", _MAX_REFS)
        for index, ref in enumerate(request.definitions):
            checks.name(ref.agent, f"definitions[{index}].agent")
            checks.not_negative(ref.version, f"definitions[{index}].version")
        checks.done()
        rows = await self._definitions.get([(ref.agent, ref.version) for ref in request.definitions])
        if sum(len(row[0]) for row in rows) > MAX_RESPONSE_BYTES:
            raise _too_large()
        return pb.GetDefinitionsResponse(definitions=[AgentDefinition.FromString(row[0]) for row in rows])

    async def ListDefinitions(
        self, request: pb.ListDefinitionsRequest, context: Context
    ) -> pb.ListDefinitionsResponse:
        checks = Checks()
        checks.name_or_empty(request.agent, "agent")
        checks.done()
        page = await self._definition_page(request, page_size_of(request.page_size))
        response = pb.ListDefinitionsResponse(
            definitions=[AgentDefinition.FromString(row[0]) for row in page.rows]
        )
        if page.more:
            last = page.rows[-1]
            key = last["version"] if request.agent else last["agent"]
            response.next_page_token = make_token(request, [key])
        return response

    async def _definition_page(self, request: pb.ListDefinitionsRequest, size: int) -> BytePage:
        if request.agent:
            last = read_token(request, request.page_token, int)
            return await self._definitions.versions(request.agent, int(last[0]) if last else 0, size)
        last = read_token(request, request.page_token, str)
        return await self._definitions.defaults(str(last[0]) if last else "", size)

    async def GetStates(self, request: pb.GetStatesRequest, context: Context) -> pb.GetStatesResponse:
        checks = Checks()
        checks.count(len(request.refs), "refs", _MAX_REFS)
        for index, ref in enumerate(request.refs):
            checks.name(ref.client_id, f"refs[{index}].client_id")
            checks.name(ref.collection, f"refs[{index}].collection")
            checks.key(ref.key, f"refs[{index}].key")
        checks.done()
        keys = [StateKey(ref.client_id, ref.collection, ref.key) for ref in request.refs]
        response = pb.GetStatesResponse()
        size = 0
        for found in await self._states.get(keys):
            size += len(found.document.body)
            if found.withheld or size > MAX_RESPONSE_BYTES:
                raise _too_large()
            response.documents.append(found.document)
        return response

    async def ListStates(self, request: pb.ListStatesRequest, context: Context) -> pb.ListStatesResponse:
        checks = Checks()
        checks.name(request.client_id, "client_id")
        checks.name(request.collection, "collection")
        checks.done()
        size = page_size_of(request.page_size)
        last = read_token(request, request.page_token, str)
        after = str(last[0]) if last else ""
        page = await self._states.page(request.client_id, request.collection, after, size)
        response = pb.ListStatesResponse(documents=[state_document(row) for row in page.rows])
        if page.more:
            response.next_page_token = make_token(request, [page.rows[-1]["key"]])
        return response

    async def StreamLiveJobs(
        self, request: pb.StreamLiveJobsRequest, context: Context
    ) -> AsyncIterator[pb.StreamLiveJobsResponse]:
        checks = Checks()
        checks.name_or_empty(request.pool, "pool")
        checks.not_negative(request.runnable_before_micros, "runnable_before_micros")
        checks.not_negative(request.limit, "limit")
        checks.done()
        wanted = LiveFilter(request.pool, request.runnable_before_micros, request.limit)
        async with aclosing(self._jobs.live(wanted)) as parts:
            async for heads, jobs in parts:
                yield pb.StreamLiveJobsResponse(heads=heads, jobs=jobs)

    async def CountJobs(self, request: pb.CountJobsRequest, context: Context) -> pb.CountJobsResponse:
        rows = await self._jobs.count()
        return pb.CountJobsResponse(
            counts=[
                pb.JobCount(pool=pool, lane=lane, state=state, count=count)
                for pool, lane, state, count in rows
            ]
        )


def _too_large() -> errors.MeshError:
    return errors.resource_exhausted(
        "LIMIT_EXCEEDED",
        "the bodies asked for are too large for one answer: ask for fewer at a time",
        retry_after=_RETRY_AFTER,
    )
