"""Offers: when an attempt may begin, and what becomes of a job that cannot go on."""

from __future__ import annotations

from typing import Final

from services.ledger import events, leases
from services.ledger.failures import deadline_error, fingerprint
from services.ledger.items import Begin, Granted, Refused
from services.ledger.jobs import (
    CANCELLED,
    DEAD_LETTERED,
    FAILED,
    OPEN,
    PAUSED,
    RUNNING,
    TERMINAL,
    WAITING,
    Decision,
    JobRow,
    Rules,
    ended,
)
from workmesh import errors
from workmesh.errors import to_status
from workmesh.ledger.v1.event_pb2 import Event, JobCancelled, JobDeadLettered, JobFailed
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal

_LEASE_HELD: Final = AttemptRefusal.REASON_LEASE_HELD
_NOT_DUE: Final = AttemptRefusal.REASON_NOT_DUE
_PAUSED: Final = AttemptRefusal.REASON_PAUSED
_SUPERSEDED: Final = AttemptRefusal.REASON_SUPERSEDED
_TERMINAL: Final = AttemptRefusal.REASON_TERMINAL


def begin(job: JobRow | None, offer: Begin, now_micros: int, rules: Rules) -> Decision[Granted | Refused]:
    """Decide an offer: grant it under the next epoch, refuse it, or end a job that cannot go on."""
    if job is None or job.state in TERMINAL:
        return Decision(Refused(_TERMINAL))
    if job.state == RUNNING and job.lease_id == offer.lease_id and now_micros < job.lease_expire_micros:
        return Decision(Granted(job, now_micros))
    if job.dispatch != offer.dispatch:
        return Decision(Refused(_SUPERSEDED))
    if job.state in (WAITING, PAUSED):
        return Decision(Refused(_PAUSED))
    past: list[Event] = []
    if job.state == RUNNING:
        if now_micros < (free_at := leases.free_at(job, rules)):
            return Decision(Refused(_LEASE_HELD, free_at))
        job, lost = leases.lose(job, now_micros, rules)
        past.append(lost)
    return _go_on(job, offer, now_micros, rules, past)


def _go_on(
    job: JobRow, offer: Begin, now_micros: int, rules: Rules, past: list[Event]
) -> Decision[Granted | Refused]:
    if job.cancel_requested:
        return _end_cancelled(job, now_micros, rules, past)
    if 0 < job.deadline_micros <= now_micros:
        return _end_overdue(job, now_micros, rules, past)
    if now_micros < job.run_time_micros:
        return Decision(Refused(_NOT_DUE, job.run_time_micros))
    if job.attempt >= job.max_attempts:
        return _end_exhausted(job, now_micros, rules, past)
    job = job._replace(
        state=RUNNING,
        epoch=job.epoch + 1,
        attempt=job.attempt + 1,
        seq=job.seq + 1,
        lease_id=offer.lease_id,
        instance=offer.instance,
        lease_expire_micros=now_micros + rules.lease_micros,
        ending=OPEN,
        update_time_micros=now_micros,
    )
    return Decision(Granted(job, now_micros), job, [*past, begun(job, now_micros)])


def begun(job: JobRow, now_micros: int) -> Event:
    """Return the event of a grant that the job's row already has."""
    event = events.blank(job, events.holder(job, job.instance), now_micros)
    payload = event.attempt_begun
    payload.epoch = job.epoch
    payload.attempt = job.attempt
    payload.series = job.series
    payload.lease_id = job.lease_id or ""
    payload.instance = job.instance
    payload.lease_expire_micros = job.lease_expire_micros
    payload.dispatch = job.dispatch
    return event


def _end_cancelled(
    job: JobRow, now_micros: int, rules: Rules, past: list[Event]
) -> Decision[Granted | Refused]:
    job = ended(job._replace(seq=job.seq + 1), CANCELLED, now_micros, job.ending)
    payload = JobCancelled(reason=job.cancel_reason, epoch=0)
    event = events.of_job(job, rules.ledger, now_micros, job_cancelled=payload)
    return Decision(Refused(_TERMINAL), job, [*past, event])


def _end_overdue(
    job: JobRow, now_micros: int, rules: Rules, past: list[Event]
) -> Decision[Granted | Refused]:
    error = to_status(deadline_error(job))
    job = ended(job._replace(seq=job.seq + 1), FAILED, now_micros, job.ending, error=error)
    event = events.of_job(job, rules.ledger, now_micros, job_failed=JobFailed(epoch=0, error=error))
    return Decision(Refused(_TERMINAL), job, [*past, event])


def _end_exhausted(
    job: JobRow, now_micros: int, rules: Rules, past: list[Event]
) -> Decision[Granted | Refused]:
    error = to_status(
        errors.aborted(
            "RETRIES_EXHAUSTED",
            f"{job.attempt} of {job.max_attempts} attempts were spent",
            attempts=str(job.attempt),
            max_attempts=str(job.max_attempts),
        )
    )
    mark = fingerprint(job.agent, "RETRIES_EXHAUSTED", error.message)
    job = ended(job._replace(seq=job.seq + 1), DEAD_LETTERED, now_micros, job.ending, error=error)
    job = job._replace(fingerprint=mark)
    letter = JobDeadLettered(epoch=job.epoch, error=error, fingerprint=mark)
    event = events.of_job(job, rules.ledger, now_micros, job_dead_lettered=letter)
    return Decision(Refused(_TERMINAL), job, [*past, event])
