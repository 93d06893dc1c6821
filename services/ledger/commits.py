"""Progress and success: steps journaled on the way, and the commit that ends an attempt well."""

from __future__ import annotations

from collections.abc import Mapping

from services.ledger import documents, events, journal
from services.ledger.documents import Conflict, Key
from services.ledger.events import Subject
from services.ledger.items import DONE, Commit, Done, Record
from services.ledger.jobs import COMMITTED, SUCCEEDED, Decision, JobRow, StepRow, ended
from services.ledger.leases import holds, superseded
from workmesh.chain import digest
from workmesh.errors import MeshError
from workmesh.ledger.v1.event_pb2 import Event


def record(
    job: JobRow | None, item: Record, known: journal.Journal, now_micros: int
) -> Decision[Done | MeshError]:
    """Journal those steps that are new."""
    if job is None or not holds(job, item.epoch):
        return Decision(superseded(job, item.job_id, item.epoch))
    try:
        rows = journal.new_rows(job, item.epoch, item.steps, known)
    except MeshError as error:
        return Decision(error)
    if not rows:
        return Decision(DONE)
    job = job._replace(seq=job.seq + 1, step_count=job.step_count + len(rows), update_time_micros=now_micros)
    return Decision(DONE, job, [recorded(job, item, rows, now_micros)], rows)


def commit(
    job: JobRow | None,
    item: Commit,
    known: journal.Journal,
    versions: Mapping[Key, int],
    now_micros: int,
) -> Decision[Done | MeshError | Conflict]:
    """End an attempt well: accepted while its epoch is the current one, whatever was asked meanwhile."""
    if job is not None and job.epoch == item.epoch and job.ending == COMMITTED:
        return Decision(DONE)
    if job is None or not holds(job, item.epoch):
        return Decision(superseded(job, item.job_id, item.epoch))
    try:
        rows = journal.new_rows(job, item.epoch, item.steps, known)
    except MeshError as error:
        return Decision(error)
    made = documents.write(job, item.epoch, item.writes, versions, now_micros)
    if isinstance(made, Conflict):
        return Decision(made)
    job, past = documents.written(job, item.instance, made, now_micros)
    job = ended(job._replace(seq=job.seq + 1), SUCCEEDED, now_micros, COMMITTED)
    job = job._replace(step_count=job.step_count + len(rows), error=None)
    event = succeeded(job, item, rows, now_micros)
    return Decision(DONE, job, [*past, event], rows, output=item.output, versions=made)


def recorded(job: Subject, item: Record, rows: list[StepRow], now_micros: int) -> Event:
    """Return the event of journaled steps that the job's row already counts."""
    event = events.blank(job, events.holder(job, item.instance), now_micros)
    payload = event.steps_recorded
    payload.epoch = item.epoch
    journal.add_digests(payload.steps, rows)
    return event


def succeeded(job: Subject, item: Commit, rows: list[StepRow], now_micros: int) -> Event:
    """Return the event of a commit that the job's row already has."""
    event = events.blank(job, events.holder(job, item.instance), now_micros)
    payload = event.job_succeeded
    payload.epoch = item.epoch
    payload.output_digest = digest(item.output)
    journal.add_digests(payload.steps, rows)
    return event
