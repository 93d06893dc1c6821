"""The journal: which steps are new, which were recorded before, and which contradict what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from google.rpc.status_pb2 import Status

from services.ledger.jobs import JobRow, StepRow
from workmesh import errors
from workmesh.chain import digest
from workmesh.ledger.v1.event_pb2 import StepDigest, StepsRecorded
from workmesh.ledger.v1.job_pb2 import JournalStep


class Recorded(NamedTuple):
    """What the journal knows of a step, bodies aside."""

    kind: int
    name: str
    arguments_digest: bytes
    outcome_digest: bytes


Journal = Mapping[tuple[str, int, str], Recorded]
"""Recorded steps by (job, series, step)."""


class Traces(Protocol):
    """The repeated field of an event that holds steps."""

    def add(self) -> StepDigest: ...


def recorded(row: StepRow) -> Recorded:
    """Return what the journal keeps of a row."""
    return Recorded(row.kind, row.name, row.arguments_digest, row.outcome_digest)


def add_digests(traces: Traces, rows: Sequence[StepRow]) -> None:
    """Add the steps' traces to an event."""
    for row in rows:
        trace = traces.add()
        trace.step = row.step
        trace.name = row.name
        trace.kind = row.kind  # type: ignore[assignment]  # a column holds the enum's number
        trace.arguments_digest = row.arguments_digest
        trace.result_digest = row.outcome_digest
        trace.failed = row.error is not None


def digests_of(rows: Sequence[StepRow]) -> list[StepDigest]:
    """Return the steps' traces in the log."""
    holder = StepsRecorded()
    add_digests(holder.steps, rows)
    return list(holder.steps)


def new_rows(job: JobRow, epoch: int, steps: Sequence[JournalStep], journal: Journal) -> list[StepRow]:
    """Return the rows of those steps that are not in the journal yet.

    FAILED_PRECONDITION STEP_CONFLICT if one is there with other arguments or another outcome.
    """
    fresh: list[StepRow] = []
    seen = dict[str, Recorded]()
    for step in steps:
        row = step_row(job.job_id, job.series, job.step_count + len(fresh), epoch, step)
        known = journal.get((job.job_id, job.series, row.step)) or seen.get(row.step)
        if known is None:
            fresh.append(row)
            seen[row.step] = recorded(row)
        elif known != recorded(row):
            raise errors.failed_precondition(
                "STEP_CONFLICT",
                f"step {row.step!r} was recorded before with other arguments or another outcome",
                job_id=job.job_id,
                step=row.step,
            )
    return fresh


def step_of(row: StepRow) -> JournalStep:
    """Return a row as what an instance replays."""
    step = JournalStep(
        step=row.step,
        kind=row.kind,  # type: ignore[arg-type]  # a column holds the enum's number
        name=row.name,
        arguments_digest=row.arguments_digest,
        start_time_micros=row.start_time_micros,
        end_time_micros=row.end_time_micros,
    )
    if row.error is not None:
        step.error.CopyFrom(Status.FromString(row.error))
    else:
        step.result = row.result or b""
    return step


def step_row(job_id: str, series: int, ordinal: int, epoch: int, step: JournalStep) -> StepRow:
    """Return the row of a step that stands at a place of a job's journal."""
    failed = step.HasField("error")
    outcome = step.error.SerializeToString(deterministic=True) if failed else step.result
    return StepRow(
        job_id,
        series,
        ordinal,
        step.step,
        step.kind,
        step.name,
        step.arguments_digest,
        digest(outcome),
        None if failed else outcome,
        outcome if failed else None,
        epoch,
        step.start_time_micros,
        step.end_time_micros,
    )
