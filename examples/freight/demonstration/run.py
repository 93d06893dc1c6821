"""Conducts a run: documents first, bookings while documents are queued, kills at their shares of progress."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Protocol

import grpc

from examples.freight.demonstration.load import JobStream, OnEnd, SubmissionRefused
from examples.freight.demonstration.scenario import Kill, Scenario, submission
from examples.freight.demonstration.tally import Tally
from workmesh.common.v1.job_pb2 import JobState
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission


class RunFailed(Exception):
    """The mesh refused a job or a call for good."""


class Mesh(Protocol):
    """What a run needs of the mesh: to submit to it and to kill its processes."""

    def stream(self, capacity: int, on_end: OnEnd) -> JobStream:
        """Opens a bulk submission."""
        ...

    def kill(self, process: str) -> int:
        """Kills a process and returns its id; 0 where none lived."""
        ...


class Watcher(Protocol):
    """Whom a run tells how it goes."""

    def note(self, text: str) -> None:
        """Says something that happened."""
        ...

    def advance(self) -> None:
        """Shows the tallies again."""
        ...


class Run:
    """One run of a scenario."""

    def __init__(
        self, scenario: Scenario, seed: int, mesh: Mesh, follow: Callable[[tuple[Tally, ...]], Watcher]
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._mesh = mesh
        self._cases = {case.reference: case for case in scenario.cases}
        self.documents = Tally("batch", len(scenario.documents))
        self.bookings = Tally("critical", len(scenario.bookings))
        self.killed: list[str] = []
        self._pending_kills = list(scenario.kills)
        self._watcher = follow((self.documents, self.bookings))
        self._document_stream = mesh.stream(len(scenario.documents), self._document_ended)
        self._booking_stream = mesh.stream(len(scenario.bookings), self._booking_ended)

    async def go(self) -> None:
        """Submits everything, returns when every job has ended; raises RunFailed when it cannot go on."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._document_stream.run())
                group.create_task(self._booking_stream.run())
                await self._submit_documents()
        except* (SubmissionRefused, grpc.aio.AioRpcError) as errors:
            raise RunFailed("; ".join(map(str, errors.exceptions))) from errors

    async def _submit_documents(self) -> None:
        self._document_stream.submit([submission(case, self._seed) for case in self._scenario.documents])
        self._document_stream.finish()
        self.documents.submitted = self.documents.total
        await self._document_stream.all_accepted.wait()
        self._watcher.note(f"{self.documents.total} documents accepted")

    def _document_ended(self, job: JobSubmission, end: Job) -> None:
        self._enter(self.documents, job, end)
        self._submit_due_bookings()

    def _booking_ended(self, job: JobSubmission, end: Job) -> None:
        self._enter(self.bookings, job, end)

    def _enter(self, tally: Tally, job: JobSubmission, end: Job) -> None:
        case = self._cases[job.labels["reference"]]
        if not tally.enter(case, end):
            state = JobState.Name(end.state).removeprefix("JOB_STATE_")
            self._watcher.note(f"{case.reference} ended {state}: {end.error.message}")
        self._kill_due()
        self._watcher.advance()

    def _submit_due_bookings(self) -> None:
        due = bisect_right(self._scenario.booking_shares, self.documents.share)
        for case in self._scenario.bookings[self.bookings.submitted : due]:
            self._booking_stream.submit([submission(case, self._seed)])
            self.bookings.submitted += 1
        if self.bookings.submitted == self.bookings.total:
            self._booking_stream.finish()

    def _kill_due(self) -> None:
        done = (self.documents.ended + self.bookings.ended) / len(self._cases)
        while self._pending_kills and self._pending_kills[0].share <= done:
            self._kill(self._pending_kills.pop(0))

    def _kill(self, kill: Kill) -> None:
        killed = [process for process in kill.processes if self._mesh.kill(process)]
        self.killed.extend(killed)
        self._watcher.note(f"{kill.share:.0%} done: kill -9 {' '.join(killed)}")
