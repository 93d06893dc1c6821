"""Outcomes as the contract's results, each filled in where it stands in its response.

Filling in place spares a copy of every message on every level; a grant's input would be copied three times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from google.rpc.status_pb2 import Status

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
from services.ledger.jobs import fill_record
from workmesh.errors import MeshError, to_status
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class Results(Protocol[Made]):
    """A response's repeated field."""

    def add(self) -> Made: ...


class _HasStatus(Protocol):
    @property
    def status(self) -> Status: ...


def fill(
    results: Results[Result], outcomes: Iterable[Outcome], answer: Callable[[Outcome, Result], None]
) -> None:
    """Answer outcomes in order."""
    for outcome in outcomes:
        answer(outcome, results.add())


def _fail(outcome: Outcome, result: _HasStatus) -> None:
    """Answer an item that failed; TypeError for an outcome that no item of this kind has."""
    if not isinstance(outcome, MeshError):
        raise TypeError(f"{type(outcome).__name__} answers no item of this kind")
    result.status.CopyFrom(to_status(outcome))


def create(outcome: Outcome, result: pb.CreateJobResult) -> None:
    """Say what became of a job to accept."""
    if isinstance(outcome, Created):
        result.job_id = outcome.job_id
        result.existing = outcome.existing
    else:
        _fail(outcome, result)


def begin(outcome: Outcome, result: pb.BeginAttemptResult) -> None:
    """Say what became of an offer."""
    if isinstance(outcome, Granted):
        grant = result.grant
        fill_record(grant.job, outcome.job)
        grant.job.input = outcome.input
        grant.lease_id = outcome.job.lease_id or ""
        grant.journal.extend(outcome.journal)
    elif isinstance(outcome, Refused):
        result.refusal.reason = outcome.reason
        result.refusal.retry_time_micros = outcome.retry_time_micros
    elif isinstance(outcome, MeshError):
        result.error.CopyFrom(to_status(outcome))
    else:
        raise TypeError(f"{type(outcome).__name__} answers no offer")


def renew(outcome: Outcome, result: pb.RenewLeaseResult) -> None:
    """Say what became of a lease."""
    if isinstance(outcome, Renewed):
        result.cancel_requested = outcome.job.cancel_requested
    else:
        _fail(outcome, result)


def item(outcome: Outcome, result: pb.ItemResult) -> None:
    """Say what became of an item with nothing to say but its status."""
    if not isinstance(outcome, Done):
        _fail(outcome, result)


def commit(outcome: Outcome, result: pb.CommitAttemptResult) -> None:
    """Say what became of a commit."""
    if isinstance(outcome, Conflicted):
        result.status.CopyFrom(to_status(outcome.error))
        result.conflicts.extend(outcome.documents)
    elif not isinstance(outcome, Done):
        _fail(outcome, result)


def fail(outcome: Outcome, result: pb.FailAttemptResult) -> None:
    """Say what became of a failed attempt."""
    if isinstance(outcome, Moved):
        result.state = outcome.state
    else:
        _fail(outcome, result)


def cancel(outcome: Outcome, result: pb.CancelJobResult) -> None:
    """Say what became of a job to cancel."""
    if isinstance(outcome, Moved):
        result.state = outcome.state
    else:
        _fail(outcome, result)


def claim(outcome: Outcome, result: pb.ClaimEffectResult) -> None:
    """Say what is known of an effect."""
    if isinstance(outcome, Claimed):
        result.standing = outcome.standing
        result.result = outcome.result
        result.call_deadline_micros = outcome.call_deadline_micros
    else:
        _fail(outcome, result)


def applied(outcome: Outcome, result: pb.ApplyDefinitionResult) -> None:
    """Say what became of a definition."""
    if isinstance(outcome, Applied):
        result.definition.CopyFrom(outcome.definition)
        result.created = outcome.created
    else:
        _fail(outcome, result)
