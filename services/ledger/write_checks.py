"""What a well-formed item looks like; each function returns what is wrong with one, normally nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.rpc.status_pb2 import Status

from services.ledger.faults import BODY_BYTES, Faults
from workmesh.chain import HASH_BYTES
from workmesh.errors import Violation
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.job_pb2 import JournalStep, StateWrite

STEP_BYTES: Final = 256 << 10
STATE_BYTES: Final = 256 << 10

_ERROR_BYTES: Final = 64 << 10
_MOST_STEPS: Final = 256
_MOST_WRITES: Final = 256
_MOST_RETRY_AFTER: Final = 24 * 3600 * 1_000_000
_SOURCES: Final = frozenset({"answer", "read_back", "operator"})


def begin(attempt: pb.BeginAttempt, path: str) -> list[Violation]:
    """Check an offer taken up."""
    faults = Faults(path)
    faults.id(attempt.job_id, "job_id")
    faults.id(attempt.lease_id, "lease_id")
    faults.least(attempt.dispatch, 1, "dispatch")
    return faults.found


def renew(attempt: pb.AttemptRef, path: str) -> list[Violation]:
    """Check an attempt to keep."""
    faults = Faults(path)
    faults.id(attempt.job_id, "job_id")
    faults.least(attempt.epoch, 1, "epoch")
    return faults.found


def _attempt(attempt: pb.AttemptRef, faults: Faults) -> None:
    faults.id(attempt.job_id, "attempt.job_id")
    faults.least(attempt.epoch, 1, "attempt.epoch")


def record(attempt: pb.RecordSteps, path: str) -> list[Violation]:
    """Check steps to journal."""
    faults = Faults(path)
    _attempt(attempt.attempt, faults)
    if not attempt.steps:
        faults.add("steps", "must not be empty")
    _steps(attempt.steps, faults)
    return faults.found


def commit(attempt: pb.CommitAttempt, path: str) -> list[Violation]:
    """Check an attempt that ended well."""
    faults = Faults(path)
    _attempt(attempt.attempt, faults)
    faults.json(attempt.output, "output", BODY_BYTES, object_only=True)
    if attempt.steps:
        _steps(attempt.steps, faults)
    if attempt.state_writes:
        _writes(attempt.state_writes, faults)
    return faults.found


def _steps(steps: Sequence[JournalStep], faults: Faults) -> None:
    if len(steps) > _MOST_STEPS:
        faults.add("steps", f"must be at most {_MOST_STEPS}")
    for index, step in enumerate(steps):
        if not (
            0 < len(step.step) <= 256
            and 0 < len(step.name) <= 512
            and "\0" not in step.step
            and "\0" not in step.name
        ):
            faults.add(f"steps[{index}]", "step and name must have 1 to 256 and 1 to 512 characters")
        if not 1 <= step.kind <= 32:
            faults.add(f"steps[{index}].kind", "must be one of the kinds")
        if len(step.arguments_digest) not in (0, HASH_BYTES):
            faults.add(f"steps[{index}].arguments_digest", f"must have {HASH_BYTES} bytes or none")
        _step_outcome(step, index, faults)


def _step_outcome(step: JournalStep, index: int, faults: Faults) -> None:
    outcome = step.WhichOneof("outcome")
    if outcome is None:
        faults.add(f"steps[{index}].outcome", "must be set")
    elif outcome == "error":
        _error(step.error, f"steps[{index}].error", faults)
    elif step.result:
        faults.json(step.result, f"steps[{index}].result", STEP_BYTES)


def _error(error: Status, field: str, faults: Faults) -> None:
    if error.ByteSize() > _ERROR_BYTES:
        faults.add(field, f"must have at most {_ERROR_BYTES} bytes")
    if not 1 <= error.code <= 16:
        faults.add(f"{field}.code", "must be an error's code")


def _writes(writes: Sequence[StateWrite], faults: Faults) -> None:
    if len(writes) > _MOST_WRITES:
        faults.add("state_writes", f"must be at most {_MOST_WRITES}")
    for index, write in enumerate(writes):
        field = f"state_writes[{index}]"
        faults.name(write.collection, f"{field}.collection")
        faults.text(write.key, f"{field}.key", 256)
        faults.json(write.body, f"{field}.body", STATE_BYTES)
        if write.HasField("expected_version") and write.expected_version < 0:
            faults.add(f"{field}.expected_version", "must not be negative")


def fail(attempt: pb.FailAttempt, path: str) -> list[Violation]:
    """Check an attempt that ended badly."""
    faults = Faults(path)
    _attempt(attempt.attempt, faults)
    verdict = attempt.verdict
    if not pb.FailAttempt.VERDICT_RETRY <= verdict <= pb.FailAttempt.VERDICT_CANCEL:
        faults.add("verdict", "must be one of the verdicts")
    optional = verdict in (pb.FailAttempt.VERDICT_RETURN, pb.FailAttempt.VERDICT_CANCEL)
    if attempt.HasField("error") or not optional:
        _error(attempt.error, "error", faults)
    if not 0 <= attempt.retry_after_micros <= _MOST_RETRY_AFTER:
        faults.add("retry_after_micros", "must be 0 to 24 h")
    _steps(attempt.steps, faults)
    return faults.found


def cancel(job: pb.CancelJob, path: str) -> list[Violation]:
    """Check a job to cancel."""
    faults = Faults(path)
    faults.id(job.job_id, "job_id")
    if job.client_id:
        faults.name(job.client_id, "client_id")
    faults.text(job.reason, "reason", 256, least=0)
    return faults.found


def claim(effect: pb.ClaimEffect, path: str) -> list[Violation]:
    """Check an effect to claim."""
    faults = Faults(path)
    _attempt(effect.attempt, faults)
    faults.text(effect.step, "step", 256)
    faults.text(effect.tool, "tool", 256)
    faults.digest(effect.arguments_digest, "arguments_digest")
    if effect.call_deadline_micros < 1:
        faults.add("call_deadline_micros", "must be a time")
    return faults.found


def settle(effect: pb.SettleEffect, path: str) -> list[Violation]:
    """Check an effect whose outcome is known."""
    faults = Faults(path)
    faults.id(effect.job_id, "job_id")
    faults.least(effect.series, 1, "series")
    faults.text(effect.step, "step", 256)
    if effect.source not in _SOURCES:
        faults.add("source", "must be one of answer, read_back, operator")
    if effect.done:
        faults.json(effect.result, "result", STEP_BYTES)
    elif effect.result:
        faults.add("result", "must be empty unless the effect took place")
    return faults.found


def actor(each: Actor, path: str) -> list[Violation]:
    """Check who asks."""
    faults = Faults(path)
    if not Actor.KIND_CLIENT <= each.kind <= Actor.KIND_OPERATOR:
        faults.add("kind", "must be one of the kinds")
    faults.text(each.id, "id", 256)
    faults.text(each.instance, "instance", 256, least=0)
    faults.text(each.on_behalf_of, "on_behalf_of", 256, least=0)
    return faults.found
