"""Cancelling: at once where nothing runs, by request to the instance where something does."""

from __future__ import annotations

from services.ledger import events, leases
from services.ledger.items import Cancel, Moved
from services.ledger.jobs import CANCELLED, RUNNING, TERMINAL, Decision, JobRow, Rules, ended
from workmesh import errors
from workmesh.common.v1.job_pb2 import JobState
from workmesh.errors import MeshError, Precondition
from workmesh.ledger.v1.event_pb2 import CancelRequested, Event, JobCancelled


def cancel(job: JobRow | None, item: Cancel, now_micros: int, rules: Rules) -> Decision[Moved | MeshError]:
    """Cancel a job; another client's is not found."""
    if job is None or (item.client_id and item.client_id != job.client_id):
        return Decision(errors.not_found("job", item.job_id))
    if job.state == CANCELLED:
        return Decision(Moved(CANCELLED))
    if job.state in TERMINAL:
        return Decision(_terminal(job))
    if job.state != RUNNING:
        return _end(job, item, now_micros, [])
    if leases.free_at(job, rules) <= now_micros:
        # Nobody will answer a request: the holder's lease is over.
        job, lost = leases.lose(job, now_micros, rules)
        return _end(job, item, now_micros, [lost])
    if job.cancel_requested:
        return Decision(Moved(RUNNING))
    job = job._replace(
        seq=job.seq + 1, cancel_requested=True, cancel_reason=item.reason, update_time_micros=now_micros
    )
    payload = CancelRequested(reason=item.reason)
    return Decision(
        Moved(RUNNING), job, [events.of_job(job, item.actor, now_micros, cancel_requested=payload)]
    )


def _end(job: JobRow, item: Cancel, now_micros: int, past: list[Event]) -> Decision[Moved | MeshError]:
    job = ended(job._replace(seq=job.seq + 1), CANCELLED, now_micros, job.ending)
    job = job._replace(cancel_reason=job.cancel_reason if job.cancel_requested else item.reason)
    payload = JobCancelled(reason=job.cancel_reason, epoch=0)
    event = events.of_job(job, item.actor, now_micros, job_cancelled=payload)
    return Decision(Moved(CANCELLED), job, [*past, event])


def _terminal(job: JobRow) -> MeshError:
    name = JobState.Name(job.state).removeprefix("JOB_STATE_")
    return errors.failed_precondition(
        "JOB_TERMINAL",
        f"job {job.job_id} is {name}",
        Precondition("JOB_STATE", f"jobs/{job.job_id}", f"the job is {name}"),
        job_id=job.job_id,
        state=name,
    )
