"""Attempts that end badly: what follows from a verdict, and what a dead letter says."""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.ledger import events, journal
from services.ledger.items import Fail, Moved
from services.ledger.jobs import (
    CANCELLED,
    DEAD_LETTERED,
    FAILED,
    QUEUED,
    REPORTED,
    SCHEDULED,
    Decision,
    JobRow,
    Rules,
    StepRow,
    ended,
    policy_of,
)
from services.ledger.leases import holds, superseded
from services.ledger.retries import next_attempt
from workmesh import errors
from workmesh.errors import DOMAIN, MeshError, from_status, to_status
from workmesh.ledger.v1.event_pb2 import (
    AttemptFailed,
    AttemptReturned,
    Event,
    JobCancelled,
    JobDeadLettered,
    JobFailed,
)
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt

RETRY: Final = FailAttempt.VERDICT_RETRY
FAIL: Final = FailAttempt.VERDICT_FAIL
DEAD_LETTER: Final = FailAttempt.VERDICT_DEAD_LETTER
RETURN: Final = FailAttempt.VERDICT_RETURN
CANCEL: Final = FailAttempt.VERDICT_CANCEL

_WITHOUT_DIGITS: Final = str.maketrans("", "", "0123456789")


def fail(
    job: JobRow | None, item: Fail, known: journal.Journal, now_micros: int, rules: Rules
) -> Decision[Moved | MeshError]:
    """Decide what follows a failed attempt; a report that was heard before gets the job's state as it is."""
    if job is not None and job.epoch == item.epoch and job.ending == REPORTED:
        return Decision(Moved(job.state))
    if job is None or not holds(job, item.epoch):
        return Decision(superseded(job, item.job_id, item.epoch))
    try:
        rows = journal.new_rows(job, item.epoch, item.steps, known)
    except MeshError as error:
        return Decision(error)
    job = job._replace(seq=job.seq + 1, step_count=job.step_count + len(rows))
    job, event = _follow(job, item, rows, now_micros, rules)
    return Decision(Moved(job.state), job, [event], rows)


def _follow(
    job: JobRow, item: Fail, rows: list[StepRow], now_micros: int, rules: Rules
) -> tuple[JobRow, Event]:
    if item.verdict == FAIL:
        return _failed(job, item, item.error, rows, now_micros)
    if item.verdict == DEAD_LETTER:
        return _dead_lettered(job, item, rows, now_micros)
    if item.verdict == CANCEL or job.cancel_requested:
        return _cancelled(job, item, now_micros)
    if item.verdict == RETURN:
        return _returned(job, item, rows, now_micros)
    return _retried(job, item, rows, now_micros, rules)


def _failed(
    job: JobRow, item: Fail, error: Status, rows: list[StepRow], now_micros: int
) -> tuple[JobRow, Event]:
    job = ended(job, FAILED, now_micros, REPORTED, error=error)
    payload = JobFailed(epoch=item.epoch, error=error, steps=journal.digests_of(rows))
    return job, _event(job, item, now_micros, job_failed=payload)


def _dead_lettered(job: JobRow, item: Fail, rows: list[StepRow], now_micros: int) -> tuple[JobRow, Event]:
    error = with_metadata(item.error, attempts=str(job.attempt))
    mark = fingerprint(job.agent, reason_of(item.error), item.error.message)
    job = ended(job, DEAD_LETTERED, now_micros, REPORTED, error=error)._replace(fingerprint=mark)
    payload = JobDeadLettered(epoch=item.epoch, error=error, fingerprint=mark, steps=journal.digests_of(rows))
    return job, _event(job, item, now_micros, job_dead_lettered=payload)


def _cancelled(job: JobRow, item: Fail, now_micros: int) -> tuple[JobRow, Event]:
    job = ended(job, CANCELLED, now_micros, REPORTED)
    payload = JobCancelled(reason=job.cancel_reason, epoch=item.epoch)
    return job, _event(job, item, now_micros, job_cancelled=payload)


def _returned(job: JobRow, item: Fail, rows: list[StepRow], now_micros: int) -> tuple[JobRow, Event]:
    job = ended(job, QUEUED, now_micros, REPORTED)
    job = job._replace(attempt=job.attempt - 1, dispatch=job.dispatch + 1, run_time_micros=0)
    payload = AttemptReturned(
        epoch=item.epoch,
        reason=item.error.message,
        steps=journal.digests_of(rows),
        routing=events.routing_of(job),
    )
    return job, _event(job, item, now_micros, attempt_returned=payload)


def _retried(
    job: JobRow, item: Fail, rows: list[StepRow], now_micros: int, rules: Rules
) -> tuple[JobRow, Event]:
    retry = next_attempt(
        policy_of(job), job.attempt, reason_of(item.error), item.retry_after_micros, rules.draw
    )
    if retry is None:
        return _dead_lettered(job, item, rows, now_micros)
    run_time = now_micros + retry.delay_micros
    if 0 < job.deadline_micros <= run_time:
        error = to_status(deadline_error(job, reason_of(item.error)))
        return _failed(job, item, error, rows, now_micros)
    state = SCHEDULED if retry.delay_micros else QUEUED
    job = ended(job, state, now_micros, REPORTED, error=item.error)
    job = job._replace(dispatch=job.dispatch + 1, run_time_micros=run_time if retry.delay_micros else 0)
    payload = AttemptFailed(
        epoch=item.epoch,
        attempt=job.attempt,
        error=item.error,
        steps=journal.digests_of(rows),
        routing=events.routing_of(job),
    )
    return job, _event(job, item, now_micros, attempt_failed=payload)


def _event(job: JobRow, item: Fail, now_micros: int, **payload: Message) -> Event:
    return events.of_job(job, events.holder(job, item.instance), now_micros, **payload)


def fingerprint(agent: str, reason: str, message: str) -> bytes:
    """Return what dead letters of one cause share: SHA-256 over agent, reason and message less digits."""
    text = "\0".join((agent, reason, message.translate(_WITHOUT_DIGITS)))
    return hashlib.sha256(text.encode()).digest()


def reason_of(status: Status) -> str:
    """Return the machine-readable reason of an error."""
    return from_status(status).reason


def with_metadata(status: Status, **metadata: str) -> Status:
    """Return a copy whose ErrorInfo says more; other details stay as they are."""
    copy = Status()
    copy.CopyFrom(status)
    for detail in copy.details:
        info = ErrorInfo()
        if detail.Unpack(info):
            info.metadata.update(metadata)
            detail.Pack(info)
            return copy
    copy.details.add().Pack(ErrorInfo(reason=reason_of(status), domain=DOMAIN, metadata=metadata))
    return copy


def deadline_error(job: JobRow, last_reason: str = "") -> MeshError:
    """Say that the deadline leaves no room for an attempt; `last_reason` is why the last one failed."""
    error = errors.deadline_exceeded("the job's deadline leaves no room for another attempt")
    metadata = {"deadline_micros": str(job.deadline_micros), "attempts": str(job.attempt)}
    if last_reason:
        metadata["last_reason"] = last_reason
    return MeshError(error.code, error.reason, error.message, metadata=metadata)
