"""One StreamJobs call: submissions in, a status each in order, and completions as they happen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from services.gateway.convert import to_completion
from services.gateway.identity import Caller
from services.gateway.intake import Intake, Refused, to_result
from services.gateway.ledger import Ledger
from services.gateway.watches import TERMINAL, Watches
from workmesh import errors
from workmesh.batching import Batcher
from workmesh.common.v1.job_pb2 import JobState
from workmesh.errors import Violation
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission, SubmissionResult
from workmesh.gateway.v1.job_service_pb2 import StreamJobsRequest, StreamJobsResponse
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.ledger.v1.ledger_write_service_pb2 import CreateJobResult, NewJob
from workmesh.rpc.streams import StreamSender

MOST_JOBS = 1_000
_MESSAGES_AHEAD = 16
_RESULT_BYTES = 128

Part = SubmissionResult | Job


class BulkCall:
    """The state of one call.

    The reader stops reading while `most_open` accepted jobs await completion or 16 messages their statuses:
    backpressure goes to the client through the stream's flow control.
    """

    def __init__(
        self, caller: Caller, intake: Intake, ledger: Ledger, watches: Watches, *, most_open: int
    ) -> None:
        self._caller = caller
        self._intake = intake
        self._watches = watches
        self._most_open = most_open
        self._completions = False
        self._with_output = False
        self._open: set[str] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._drained = asyncio.Event()
        self._finished: Batcher[str, None] = Batcher(
            self._complete, name="completions", max_items=128, flights=1
        )
        self._ledger = ledger
        self._sender: StreamSender[Part, StreamJobsResponse] = StreamSender(
            _combine, name="StreamJobs", max_items=1_000, size_of=_size
        )
        self._failure: BaseException | None = None

    async def run(self, requests: AsyncIterator[StreamJobsRequest]) -> AsyncIterator[StreamJobsResponse]:
        """Yield the responses; raises what went wrong."""
        work = asyncio.create_task(self._work(requests))
        work.add_done_callback(lambda _: self._sender.close())
        try:
            async for response in self._sender.messages():
                yield response
            await work
            if self._failure is not None:
                raise self._failure
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            for job_id in self._open:
                self._watches.remove(job_id, self)

    def job_changed(self, job_id: str, seq: int, state: JobState.ValueType) -> None:
        """Fetch the job's outcome if it has one."""
        if state in TERMINAL and job_id in self._open:
            self._fetch((job_id,))

    async def _work(self, requests: AsyncIterator[StreamJobsRequest]) -> None:
        answers: asyncio.Queue[_Answer | None] = asyncio.Queue(_MESSAGES_AHEAD)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(requests, answers))
                group.create_task(self._answer(answers))
        except* errors.MeshError as failed:
            # The call has one status: that of what went wrong first.
            raise _first(failed) from failed
        while self._open and self._failure is None:
            self._drained.clear()
            await self._drained.wait()

    async def _read(
        self, requests: AsyncIterator[StreamJobsRequest], answers: asyncio.Queue[_Answer | None]
    ) -> None:
        first = True
        async for request in requests:
            if first:
                self._completions = request.completions
                self._with_output = request.with_output
                first = False
            if len(request.jobs) > MOST_JOBS:
                raise errors.invalid_argument(
                    f"jobs has more than {MOST_JOBS} entries",
                    Violation("jobs", f"has more than {MOST_JOBS} entries"),
                )
            checked = await self._intake.check_all(request.jobs, self._caller, "jobs")
            self._follow(checked)
            creating = asyncio.ensure_future(self._intake.create(checked))
            await answers.put(_Answer(list(request.jobs), checked, creating))
            await self._wait_for_room()
        await answers.put(None)

    async def _answer(self, answers: asyncio.Queue[_Answer | None]) -> None:
        while (answer := await answers.get()) is not None:
            for outcome, proto, checked in zip(
                await answer.creating, answer.protos, answer.checked, strict=True
            ):
                await self._sender.send(to_result(outcome, proto.request_id))
                if self._completions:
                    self._settle(checked, outcome)

    def _follow(self, checked: Sequence[NewJob | Refused]) -> None:
        """Watch jobs before they exist: a quick one is over before its status has come back."""
        if not self._completions:
            return
        for each in checked:
            if isinstance(each, NewJob):
                self._watches.add(each.job_id, self)
                self._open.add(each.job_id)

    def _settle(self, checked: NewJob | Refused, outcome: CreateJobResult | Refused) -> None:
        """Stop following a job that was not created; follow the one that an earlier request had created."""
        if not isinstance(checked, NewJob):
            return
        refused = isinstance(outcome, Refused) or not errors.is_ok(outcome.status)
        job_id = "" if isinstance(outcome, Refused) else outcome.job_id
        if not refused and job_id == checked.job_id:
            return
        self._forget(checked.job_id)
        if not refused and job_id not in self._open:
            self._watches.add(job_id, self)
            self._open.add(job_id)
            self._fetch((job_id,))

    def _fetch(self, job_ids: Sequence[str]) -> None:
        self._finished.submit(job_ids).add_done_callback(self._fetched)

    def _fetched(self, waiting: asyncio.Future[list[None]]) -> None:
        error = None if waiting.cancelled() else waiting.exception()
        # After a MeshError the sweep of the watches asks again for what is still open.
        if error is not None and not isinstance(error, errors.MeshError):
            self._failure = error
            self._drained.set()

    async def _complete(self, job_ids: list[str]) -> list[None]:
        wanted = [job_id for job_id in dict.fromkeys(job_ids) if job_id in self._open]
        for record in await self._ledger.get_outcomes(wanted) if wanted else ():
            if record is not None and record.state in TERMINAL and record.job_id in self._open:
                await self._sender.send(self._completion(record))
                self._forget(record.job_id)
        return [None] * len(job_ids)

    def _completion(self, record: JobRecord) -> Job:
        if not self._with_output:
            record.ClearField("output")
        return to_completion(record)

    def _forget(self, job_id: str) -> None:
        self._watches.remove(job_id, self)
        self._open.discard(job_id)
        if len(self._open) < self._most_open:
            self._room.set()
        if not self._open:
            self._drained.set()

    async def _wait_for_room(self) -> None:
        while len(self._open) >= self._most_open:
            self._room.clear()
            await self._room.wait()


def _first(group: BaseExceptionGroup[errors.MeshError]) -> errors.MeshError:
    failed = group.exceptions[0]
    return _first(failed) if isinstance(failed, BaseExceptionGroup) else failed.copy()


class _Answer:
    """A message whose jobs are being created."""

    __slots__ = ("checked", "creating", "protos")

    def __init__(
        self,
        protos: list[JobSubmission],
        checked: list[NewJob | Refused],
        creating: asyncio.Future[list[CreateJobResult | Refused]],
    ) -> None:
        self.protos = protos
        self.checked = checked
        self.creating = creating


def _combine(parts: list[Part]) -> StreamJobsResponse:
    response = StreamJobsResponse()
    for part in parts:
        if isinstance(part, Job):
            response.completions.append(part)
        else:
            response.results.append(part)
    return response


def _size(part: Part) -> int:
    return part.ByteSize() if isinstance(part, Job) else _RESULT_BYTES
