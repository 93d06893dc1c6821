"""Outcomes as the contract's results."""

from __future__ import annotations

from services.ledger.items import (
    Applied,
    Claimed,
    Conflicted,
    Created,
    Done,
    Granted,
    Moved,
    Outcome,
    Refused,
    Renewed,
)
from services.ledger.jobs import record_of
from workmesh.errors import MeshError, to_status
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb


def _unexpected(outcome: Outcome) -> TypeError:
    return TypeError(f"{type(outcome).__name__} answers no item of this kind")


def create(outcome: Outcome) -> pb.CreateJobResult:
    """Return what became of a job to accept."""
    if isinstance(outcome, Created):
        return pb.CreateJobResult(job_id=outcome.job_id, existing=outcome.existing)
    if isinstance(outcome, MeshError):
        return pb.CreateJobResult(status=to_status(outcome))
    raise _unexpected(outcome)


def begin(outcome: Outcome) -> pb.BeginAttemptResult:
    """Return what became of an offer."""
    if isinstance(outcome, Granted):
        return pb.BeginAttemptResult(
            grant=pb.AttemptGrant(
                job=record_of(outcome.job, outcome.input),
                lease_id=outcome.job.lease_id or "",
                journal=outcome.journal,
            )
        )
    if isinstance(outcome, Refused):
        return pb.BeginAttemptResult(
            refusal=pb.AttemptRefusal(reason=outcome.reason, retry_time_micros=outcome.retry_time_micros)
        )
    if isinstance(outcome, MeshError):
        return pb.BeginAttemptResult(error=to_status(outcome))
    raise _unexpected(outcome)


def renew(outcome: Outcome) -> pb.RenewLeaseResult:
    """Return what became of a lease."""
    if isinstance(outcome, Renewed):
        return pb.RenewLeaseResult(cancel_requested=outcome.job.cancel_requested)
    if isinstance(outcome, MeshError):
        return pb.RenewLeaseResult(status=to_status(outcome))
    raise _unexpected(outcome)


def item(outcome: Outcome) -> pb.ItemResult:
    """Return what became of an item with nothing to say but its status."""
    if isinstance(outcome, Done):
        return pb.ItemResult()
    if isinstance(outcome, MeshError):
        return pb.ItemResult(status=to_status(outcome))
    raise _unexpected(outcome)


def commit(outcome: Outcome) -> pb.CommitAttemptResult:
    """Return what became of a commit."""
    if isinstance(outcome, Done):
        return pb.CommitAttemptResult()
    if isinstance(outcome, Conflicted):
        return pb.CommitAttemptResult(status=to_status(outcome.error), conflicts=outcome.documents)
    if isinstance(outcome, MeshError):
        return pb.CommitAttemptResult(status=to_status(outcome))
    raise _unexpected(outcome)


def fail(outcome: Outcome) -> pb.FailAttemptResult:
    """Return what became of a failed attempt."""
    if isinstance(outcome, Moved):
        return pb.FailAttemptResult(state=outcome.state)
    if isinstance(outcome, MeshError):
        return pb.FailAttemptResult(status=to_status(outcome))
    raise _unexpected(outcome)


def cancel(outcome: Outcome) -> pb.CancelJobResult:
    """Return what became of a job to cancel."""
    if isinstance(outcome, Moved):
        return pb.CancelJobResult(state=outcome.state)
    if isinstance(outcome, MeshError):
        return pb.CancelJobResult(status=to_status(outcome))
    raise _unexpected(outcome)


def claim(outcome: Outcome) -> pb.ClaimEffectResult:
    """Return what is known of an effect."""
    if isinstance(outcome, Claimed):
        return pb.ClaimEffectResult(
            standing=outcome.standing,
            result=outcome.result,
            call_deadline_micros=outcome.call_deadline_micros,
        )
    if isinstance(outcome, MeshError):
        return pb.ClaimEffectResult(status=to_status(outcome))
    raise _unexpected(outcome)


def applied(outcome: Outcome) -> pb.ApplyDefinitionResult:
    """Return what became of a definition."""
    if isinstance(outcome, Applied):
        return pb.ApplyDefinitionResult(definition=outcome.definition, created=outcome.created)
    if isinstance(outcome, MeshError):
        return pb.ApplyDefinitionResult(status=to_status(outcome))
    raise _unexpected(outcome)
