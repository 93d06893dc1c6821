"""Test peers: a ledger, a scheduler and a toolhub whose moves a test decides, over real gRPC."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import orjson

from workmesh import errors
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.errors import MeshError, to_status
from workmesh.ledger.v1 import ledger_read_service_pb2 as reads
from workmesh.ledger.v1 import ledger_write_service_pb2 as writes
from workmesh.ledger.v1.job_pb2 import JobRecord, JournalStep, StateDocument
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import (
    LedgerReadServiceServicer,
    add_LedgerReadServiceServicer_to_server,
)
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import (
    LedgerWriteServiceServicer,
    add_LedgerWriteServiceServicer_to_server,
)
from workmesh.rpc.server import MeshServer, ServerSettings
from workmesh.scheduler.v1.lease_service_pb2 import (
    CancelNotice,
    Done,
    LeaseJobsRequest,
    LeaseJobsResponse,
    Offer,
)
from workmesh.scheduler.v1.lease_service_pb2_grpc import (
    LeaseServiceServicer,
    add_LeaseServiceServicer_to_server,
)
from workmesh.toolhub.v1.tool_service_pb2 import InvokeToolsRequest, InvokeToolsResponse, ToolCall, ToolResult
from workmesh.toolhub.v1.tool_service_pb2_grpc import ToolServiceServicer, add_ToolServiceServicer_to_server

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass
class Job:
    """A job as the ledger peer keeps it."""

    record: JobRecord
    journal: dict[str, JournalStep] = field(default_factory=dict)
    lease_id: str = ""
    verdict: writes.FailAttempt | None = None
    output: Any = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def journal_steps(self, steps: Any) -> None:
        for step in steps:
            assert step.step not in self.journal, f"step {step.step} was journaled twice"
            self.journal[step.step] = step


class LedgerPeer(LedgerWriteServiceServicer, LedgerReadServiceServicer):
    """Grants by epoch and keeps what is committed; `faults` names calls that fail, each once an entry."""

    def __init__(self, lease_seconds: float) -> None:
        self.lease_seconds = lease_seconds
        self.jobs: dict[str, Job] = {}
        self.documents: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.faults: dict[str, list[MeshError]] = {}
        self.item_faults: dict[str, list[MeshError]] = {}
        self.calls: dict[str, list[int]] = {}
        self.renewed: dict[str, int] = {}
        self.renewing = asyncio.Condition()
        self.refusal: writes.AttemptRefusal | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.gated: set[str] = set()
        self.arrived = asyncio.Event()

    def add(self, agent: str, value: Any = None, **fields: Any) -> Job:
        record = JobRecord(
            job_id=str(uuid.uuid4()),
            client_id="acme",
            agent=agent,
            version=1,
            input=orjson.dumps({} if value is None else value),
            **fields,
        )
        job = self.jobs[record.job_id] = Job(record)
        return job

    async def _enter(self, name: str, count: int) -> None:
        self.calls.setdefault(name, []).append(count)
        if name in self.gated:
            self.arrived.set()
            await self.gate.wait()
        if self.faults.get(name):
            raise self.faults[name].pop(0)

    def _held(self, name: str, ref: writes.AttemptRef) -> Job:
        if self.item_faults.get(name):
            raise self.item_faults[name].pop(0)
        job = self.jobs[ref.job_id]
        if not job.lease_id or job.record.epoch != ref.epoch:
            raise errors.aborted("STALE_EPOCH", "another attempt was granted")
        return job

    async def ApplyDefinitions(
        self, request: writes.ApplyDefinitionsRequest, context: Context
    ) -> writes.ApplyDefinitionsResponse:
        await self._enter("ApplyDefinitions", len(request.definitions))
        response = writes.ApplyDefinitionsResponse()
        for definition in request.definitions:
            result = response.results.add(created=True)
            result.definition.CopyFrom(definition)
            result.definition.version = 1
        return response

    async def BeginAttempts(
        self, request: writes.BeginAttemptsRequest, context: Context
    ) -> writes.BeginAttemptsResponse:
        await self._enter("BeginAttempts", len(request.attempts))
        token = JobToken(token_id=str(uuid.uuid4()), claims=b"claims", signature=b"signature")
        response = writes.BeginAttemptsResponse(
            token=token, lease_micros=round(self.lease_seconds * 1_000_000)
        )
        for attempt in request.attempts:
            result = response.results.add()
            if self.refusal is not None:
                result.refusal.CopyFrom(self.refusal)
                continue
            job = self.jobs[attempt.job_id]
            if job.lease_id != attempt.lease_id:
                job.lease_id = attempt.lease_id
                job.record.epoch += 1
                job.record.attempt += 1
            result.grant.job.CopyFrom(job.record)
            result.grant.lease_id = attempt.lease_id
            result.grant.journal.extend(job.journal.values())
        return response

    async def RenewLeases(
        self, request: writes.RenewLeasesRequest, context: Context
    ) -> writes.RenewLeasesResponse:
        await self._enter("RenewLeases", len(request.attempts))
        token = JobToken(token_id=str(uuid.uuid4()), claims=b"claims", signature=b"signature")
        response = writes.RenewLeasesResponse(token=token, lease_micros=round(self.lease_seconds * 1_000_000))
        for ref in request.attempts:
            result = response.results.add()
            try:
                job = self._held("RenewLeases", ref)
            except MeshError as error:
                result.status.CopyFrom(to_status(error))
            else:
                result.cancel_requested = job.record.cancel_requested
                self.renewed[ref.job_id] = self.renewed.get(ref.job_id, 0) + 1
        async with self.renewing:
            self.renewing.notify_all()
        return response

    async def RecordSteps(
        self, request: writes.RecordStepsRequest, context: Context
    ) -> writes.RecordStepsResponse:
        await self._enter("RecordSteps", len(request.attempts))
        response = writes.RecordStepsResponse()
        for item in request.attempts:
            result = response.results.add()
            try:
                self._held("RecordSteps", item.attempt).journal_steps(item.steps)
            except MeshError as error:
                result.status.CopyFrom(to_status(error))
        return response

    async def CommitAttempts(
        self, request: writes.CommitAttemptsRequest, context: Context
    ) -> writes.CommitAttemptsResponse:
        await self._enter("CommitAttempts", len(request.attempts))
        response = writes.CommitAttemptsResponse()
        for item in request.attempts:
            result = response.results.add()
            try:
                job = self._held("CommitAttempts", item.attempt)
                result.conflicts.extend(self._conflicts(item))
                if result.conflicts:
                    raise errors.aborted("STATE_CONFLICT", "documents changed")
            except MeshError as error:
                result.status.CopyFrom(to_status(error))
                continue
            for write in item.state_writes:
                version, _ = self.documents.get((write.collection, write.key), (0, b""))
                self.documents[write.collection, write.key] = (version + 1, write.body)
            job.journal_steps(item.steps)
            job.output = orjson.loads(item.output)
            job.lease_id = ""
            job.ended.set()
        return response

    def _conflicts(self, item: writes.CommitAttempt) -> list[StateDocument]:
        now = [(write, self._document(write.collection, write.key)) for write in item.state_writes]
        return [
            document
            for write, document in now
            if write.HasField("expected_version") and write.expected_version != document.version
        ]

    def _document(self, collection: str, key: str) -> StateDocument:
        version, body = self.documents.get((collection, key), (0, b""))
        return StateDocument(collection=collection, key=key, version=version, body=body)

    async def FailAttempts(
        self, request: writes.FailAttemptsRequest, context: Context
    ) -> writes.FailAttemptsResponse:
        await self._enter("FailAttempts", len(request.attempts))
        response = writes.FailAttemptsResponse()
        for item in request.attempts:
            result = response.results.add()
            try:
                job = self._held("FailAttempts", item.attempt)
            except MeshError as error:
                result.status.CopyFrom(to_status(error))
                continue
            job.journal_steps(item.steps)
            job.verdict = item
            job.lease_id = ""
            job.ended.set()
        return response

    async def GetStates(self, request: reads.GetStatesRequest, context: Context) -> reads.GetStatesResponse:
        await self._enter("GetStates", len(request.refs))
        return reads.GetStatesResponse(
            documents=[self._document(ref.collection, ref.key) for ref in request.refs]
        )


class SchedulerPeer(LeaseServiceServicer):
    """Offers what a test wants offered, and keeps what instances say."""

    def __init__(self) -> None:
        self.requests: list[LeaseJobsRequest] = []
        self.done: dict[str, Done] = {}
        self.ready = 0
        self.streams = 0
        self.heard = asyncio.Condition()
        self._out: asyncio.Queue[LeaseJobsResponse | None] | None = None

    async def LeaseJobs(
        self, request_iterator: AsyncIterator[LeaseJobsRequest], context: Context
    ) -> AsyncIterator[LeaseJobsResponse]:
        out: asyncio.Queue[LeaseJobsResponse | None] = asyncio.Queue()
        self._out = out
        self.streams += 1
        reader = asyncio.create_task(self._read(request_iterator, out))
        try:
            while (response := await out.get()) is not None:
                yield response
        finally:
            if self._out is out:
                self._out = None
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(
        self, requests: AsyncIterator[LeaseJobsRequest], out: asyncio.Queue[LeaseJobsResponse | None]
    ) -> None:
        async for request in requests:
            async with self.heard:
                self.requests.append(request)
                self.ready += request.ready
                self.done.update((done.lease_id, done) for done in request.done)
                self.heard.notify_all()
        out.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.heard:
            await self.heard.wait_for(condition)

    async def connected(self) -> None:
        await self.until(lambda: any(request.HasField("hello") for request in self.requests))

    def offer(self, *jobs: Job) -> list[str]:
        """Offer jobs together and return the lease ids."""
        offers = [
            Offer(
                job_id=job.record.job_id,
                dispatch=1,
                lease_id=str(uuid.uuid4()),
                agent=job.record.agent,
                version=job.record.version,
            )
            for job in jobs
        ]
        self._send(LeaseJobsResponse(offers=offers))
        return [offer.lease_id for offer in offers]

    def cancel(self, job: Job, lease_id: str) -> None:
        notice = CancelNotice(job_id=job.record.job_id, lease_id=lease_id)
        self._send(LeaseJobsResponse(cancels=[notice]))

    def ask_to_drain(self) -> None:
        self._send(LeaseJobsResponse(drain=True))

    def end_stream(self) -> None:
        assert self._out is not None
        self._out.put_nowait(None)

    def _send(self, response: LeaseJobsResponse) -> None:
        assert self._out is not None, "no instance is connected"
        self._out.put_nowait(response)

    async def done_of(self, lease_id: str) -> Done:
        await self.until(lambda: lease_id in self.done)
        return self.done[lease_id]


class ToolhubPeer(ToolServiceServicer):
    """Answers calls by functions; a function that returns None leaves its call without an answer."""

    def __init__(self) -> None:
        self.tools: dict[str, Callable[[ToolCall], ToolResult | None]] = {}
        self.requests: list[InvokeToolsRequest] = []
        self.tokens: list[str] = []
        self.cancelled: list[int] = []
        self.changed = asyncio.Condition()
        self.streams = 0
        self.away: MeshError | None = None
        self._out: asyncio.Queue[InvokeToolsResponse | None] = asyncio.Queue()

    @property
    def calls(self) -> list[ToolCall]:
        return [call for request in self.requests for call in request.calls]

    async def InvokeTools(
        self, request_iterator: AsyncIterator[InvokeToolsRequest], context: Context
    ) -> AsyncIterator[InvokeToolsResponse]:
        self.streams += 1
        if self.away is not None:
            raise self.away
        out = self._out = asyncio.Queue()
        reader = asyncio.create_task(self._read(request_iterator, out))
        try:
            while (response := await out.get()) is not None:
                yield response
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(
        self, requests: AsyncIterator[InvokeToolsRequest], out: asyncio.Queue[InvokeToolsResponse | None]
    ) -> None:
        async for request in requests:
            async with self.changed:
                self.requests.append(request)
                self.tokens += [token.token_id for token in request.tokens]
                self.cancelled += request.cancelled_call_ids
                answers = [self.tools[call.tool](call) for call in request.calls]
                results = [answer for answer in answers if answer is not None]
                if results:
                    out.put_nowait(InvokeToolsResponse(results=results))
                self.changed.notify_all()
        out.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    def end_stream(self) -> None:
        self._out.put_nowait(None)

    def answer_now(self, value: Any) -> None:
        """Answer every call that came so far."""
        results = [answer(value)(call) for call in self.calls]
        self._out.put_nowait(InvokeToolsResponse(results=results))


def answer(value: Any) -> Callable[[ToolCall], ToolResult]:
    return lambda call: ToolResult(call_id=call.call_id, result=orjson.dumps(value))


def refuse(error: MeshError) -> Callable[[ToolCall], ToolResult]:
    return lambda call: ToolResult(call_id=call.call_id, error=to_status(error))


class Site:
    """The three peers on one server, which can go away and come back on the same port."""

    def __init__(self, lease_seconds: float) -> None:
        # Peers answer what agents ask, and UNIMPLEMENTED for the rest.
        self.ledger = LedgerPeer(lease_seconds)  # type: ignore[abstract]
        self.scheduler = SchedulerPeer()
        self.toolhub = ToolhubPeer()  # type: ignore[abstract]
        self.ended = asyncio.Event()
        self.port = 0
        self._server: MeshServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        server = MeshServer(ServerSettings("test", port=self.port))
        server.add(
            add_LedgerWriteServiceServicer_to_server, self.ledger, "workmesh.ledger.v1.LedgerWriteService"
        )
        server.add(
            add_LedgerReadServiceServicer_to_server, self.ledger, "workmesh.ledger.v1.LedgerReadService"
        )
        server.add(add_LeaseServiceServicer_to_server, self.scheduler, "workmesh.scheduler.v1.LeaseService")
        server.add(add_ToolServiceServicer_to_server, self.toolhub, "workmesh.toolhub.v1.ToolService")
        self.port = await server.start()
        server.set_serving(True)
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None
