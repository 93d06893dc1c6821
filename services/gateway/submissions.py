"""From what a client submits to what the ledger stores: every rule of JobSubmission in one place."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import orjson
from google.protobuf.timestamp_pb2 import Timestamp

from services.gateway.definitions import Definition
from services.gateway.identity import Caller
from workmesh import errors
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import LANE_STANDARD, Lane, RetryPolicy
from workmesh.errors import Violation
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.ids import is_name, is_uuid, uuid7
from workmesh.ledger.v1.ledger_write_service_pb2 import NewJob
from workmesh.payload import struct_to_json
from workmesh.schema import CompiledSchema
from workmesh.telemetry import new_traceparent

MICROS = 1_000_000
MOST_LABELS = 32
MOST_LABEL_LENGTH = 256
MOST_FAIRNESS_KEY_LENGTH = 128
MOST_AHEAD_MICROS = 365 * 86_400 * MICROS
MOST_ATTEMPTS = 100
MOST_REASONS = 32
MOST_DELAY_SECONDS = 86_400
LEAST_DELAY_SECONDS = 0.01

_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9\-_./]{0,62}")
_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission whose form is right: what its definition says of it is still to be asked."""

    proto: JobSubmission
    request_id: str
    run_time_micros: int
    deadline_micros: int


def check_form(proto: JobSubmission, now_micros: int, field: str) -> Submission:
    """Check everything that needs no definition; INVALID_ARGUMENT with a violation for each wrong field."""
    wrong: list[Violation] = []
    request_id = proto.request_id.lower()
    if not is_uuid(request_id):
        wrong.append(Violation(f"{field}.request_id", "is not a UUID"))
    if not is_name(proto.agent):
        wrong.append(Violation(f"{field}.agent", "is not a name: [a-z0-9][a-z0-9-]{0,62}"))
    if proto.version < 0:
        wrong.append(Violation(f"{field}.version", "is negative"))
    if proto.lane not in Lane.values():
        wrong.append(Violation(f"{field}.lane", "is not a lane"))
    wrong += _check_labels(proto, field)
    if len(proto.fairness_key) > MOST_FAIRNESS_KEY_LENGTH or "\0" in proto.fairness_key:
        wrong.append(Violation(f"{field}.fairness_key", "is longer than 128 characters or holds U+0000"))
    if proto.HasField("retry_policy"):
        wrong += check_retry_policy(proto.retry_policy, f"{field}.retry_policy")
    run_time, deadline, late = _check_times(proto, now_micros, field)
    wrong += late
    if wrong:
        raise errors.invalid_argument(f"{wrong[0].field} {wrong[0].description}", *wrong)
    return Submission(proto, request_id, run_time, deadline)


def accept(submission: Submission, definition: Definition, caller: Caller, field: str) -> NewJob:
    """Check the input against the definition and return the job to create; INVALID_ARGUMENT."""
    proto = submission.proto
    told = definition.proto
    body = struct_to_json(proto.input, field=f"{field}.input")
    if definition.input_schema is not None:
        _check_schema(definition.input_schema, told, body, field)
    job = NewJob(
        job_id=uuid7(),
        client_id=caller.client_id,
        request_id=submission.request_id,
        request_digest=hashlib.sha256(proto.SerializeToString(deterministic=True)).digest(),
        agent=told.agent,
        version=told.version,
        pool=told.pool or "default",
        lane=proto.lane or told.lane or LANE_STANDARD,
        fairness_key=proto.fairness_key or caller.client_id,
        input=body,
        run_time_micros=submission.run_time_micros,
        deadline_micros=submission.deadline_micros,
        retry_policy=retry_policy(proto, told),
        traceparent=_trace(caller),
    )
    if proto.labels:
        job.labels.update(proto.labels)
    return job


def retry_policy(proto: JobSubmission, definition: AgentDefinition) -> RetryPolicy:
    """Return the policy in force, every field set: the submission's, else the definition's, else defaults."""
    chosen = proto.retry_policy if proto.HasField("retry_policy") else definition.retry_policy
    policy = RetryPolicy(
        max_attempts=chosen.max_attempts or 10,
        multiplier=chosen.multiplier or 2.0,
        non_retryable_reasons=chosen.non_retryable_reasons,
    )
    if chosen.HasField("initial_delay"):
        policy.initial_delay.CopyFrom(chosen.initial_delay)
    else:
        policy.initial_delay.seconds = 1
    if chosen.HasField("max_delay"):
        policy.max_delay.CopyFrom(chosen.max_delay)
    else:
        policy.max_delay.seconds = max(60, policy.initial_delay.seconds + 1)
    return policy


def check_retry_policy(policy: RetryPolicy, field: str) -> list[Violation]:
    """Return what is wrong with a policy whose unset fields mean their defaults."""
    wrong: list[Violation] = []
    if not 0 <= policy.max_attempts <= MOST_ATTEMPTS:
        wrong.append(Violation(f"{field}.max_attempts", f"is not between 1 and {MOST_ATTEMPTS}"))
    if policy.multiplier and not 1.0 <= policy.multiplier <= 10.0:
        wrong.append(Violation(f"{field}.multiplier", "is not between 1.0 and 10.0"))
    for name in ("initial_delay", "max_delay"):
        if policy.HasField(name):
            delay = getattr(policy, name)
            seconds = delay.seconds + delay.nanos / 1e9
            if not LEAST_DELAY_SECONDS <= seconds <= MOST_DELAY_SECONDS:
                wrong.append(Violation(f"{field}.{name}", "is not between 10 ms and 24 h"))
    if len(policy.non_retryable_reasons) > MOST_REASONS:
        wrong.append(Violation(f"{field}.non_retryable_reasons", f"has more than {MOST_REASONS} entries"))
    if any(not reason or len(reason) > 63 or "\0" in reason for reason in policy.non_retryable_reasons):
        wrong.append(
            Violation(f"{field}.non_retryable_reasons", "holds a reason of 0 or more than 63 characters")
        )
    return wrong


def _check_labels(proto: JobSubmission, field: str) -> list[Violation]:
    if not proto.labels:
        return []
    wrong = []
    if len(proto.labels) > MOST_LABELS:
        wrong.append(Violation(f"{field}.labels", f"has more than {MOST_LABELS} entries"))
    for key, value in proto.labels.items():
        if _LABEL_KEY.fullmatch(key) is None:
            wrong.append(Violation(f"{field}.labels", "has a key that is not [a-z0-9][a-z0-9-_./]{0,62}"))
        elif len(value) > MOST_LABEL_LENGTH or "\0" in value:
            wrong.append(Violation(f"{field}.labels.{key}", "is longer than 256 characters or holds U+0000"))
    return wrong


def _check_times(proto: JobSubmission, now_micros: int, field: str) -> tuple[int, int, list[Violation]]:
    """Return run_time and deadline in microseconds, 0 where absent or already past, and what is wrong."""
    wrong = []
    run_time: int | None = 0
    deadline: int | None = 0
    if proto.HasField("run_time"):
        run_time = _micros(proto.run_time)
        if run_time is None or run_time > now_micros + MOST_AHEAD_MICROS:
            wrong.append(Violation(f"{field}.run_time", "is not a time within the next 365 days"))
            run_time = 0
    if proto.HasField("deadline"):
        deadline = _micros(proto.deadline)
        if deadline is None or deadline <= max(now_micros, run_time or 0):
            wrong.append(Violation(f"{field}.deadline", "is not a time in the future and after run_time"))
            deadline = 0
    return (run_time or 0) if (run_time or 0) > now_micros else 0, deadline or 0, wrong


def _micros(time: Timestamp) -> int | None:
    """Return microseconds since the epoch; None outside of 1970 to 9999 or with impossible nanoseconds."""
    if not (0 <= time.seconds <= 253_402_300_799 and 0 <= time.nanos < 1_000_000_000):
        return None
    return time.seconds * MICROS + time.nanos // 1_000


def _check_schema(schema: CompiledSchema, told: AgentDefinition, body: bytes, field: str) -> None:
    found = schema.validate(orjson.loads(body))
    if found:
        violations = [
            Violation(
                f"{field}.{each.field}" if each.field.startswith("input") else f"{field}.input.{each.field}",
                each.description,
            )
            for each in found
        ]
        agent = f"{told.agent}@{told.version}"
        raise errors.invalid_argument(
            f"the input does not match the schema of {agent}",
            *violations,
            reason="SCHEMA_MISMATCH",
            agent=agent,
        )


def _trace(caller: Caller) -> str:
    if _TRACEPARENT.fullmatch(caller.traceparent) is not None:
        return caller.traceparent
    return new_traceparent()
