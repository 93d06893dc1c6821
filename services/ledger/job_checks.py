"""What jobs and definitions must look like to be stored."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from services.ledger.faults import BODY_BYTES, Faults
from services.ledger.retries import micros_of
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import RetryPolicy
from workmesh.errors import Violation
from workmesh.ids import is_name
from workmesh.ledger.v1.ledger_write_service_pb2 import NewJob

_MOST_LABELS: Final = 32
_MOST_REASONS: Final = 32
_MOST_ATTEMPTS: Final = 100
_LEAST_DELAY: Final = 10_000
_MOST_DELAY: Final = 24 * 3600 * 1_000_000
_LEAST_TIMEOUT: Final = 1_000_000

_LABEL_KEY = re.compile(r"[a-z0-9][a-z0-9\-_./]{0,62}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TOOL = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.(\*|[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})")


def new_job(job: NewJob, path: str) -> list[Violation]:
    """Check a job to accept; its input was parsed at the edge, so only its size and encoding count here."""
    faults = Faults(path)
    _identity(job, faults)
    if not 1 <= job.lane <= 3:
        faults.add("lane", "must be one of the lanes")
    faults.least(job.run_time_micros, 0, "run_time_micros")
    faults.least(job.deadline_micros, 0, "deadline_micros")
    faults.text(job.fairness_key, "fairness_key", 128)
    _input(job.input, faults)
    if not is_sound_policy(job.retry_policy.SerializeToString()):
        _retry_policy(job.retry_policy, faults)
    if job.labels:
        _labels(job, faults)
    if job.traceparent and _TRACEPARENT.fullmatch(job.traceparent) is None:
        faults.add("traceparent", "must be a W3C traceparent or empty")
    return faults.found


def _identity(job: NewJob, faults: Faults) -> None:
    faults.id(job.job_id, "job_id")
    faults.id(job.request_id, "request_id")
    faults.name(job.client_id, "client_id")
    faults.name(job.agent, "agent")
    faults.name(job.pool, "pool")
    faults.least(job.version, 1, "version")
    faults.digest(job.request_digest, "request_digest")


def _input(body: bytes, faults: Faults) -> None:
    if len(body) > BODY_BYTES:
        faults.add("input", f"must have at most {BODY_BYTES} bytes")
    elif body[:1] != b"{" or body[-1:] != b"}":
        faults.add("input", "must be a JSON object")
    else:
        try:
            body.decode()
        except UnicodeDecodeError:
            faults.add("input", "must be UTF-8")


@lru_cache(maxsize=1024)
def is_sound_policy(policy: bytes) -> bool:
    """Tell whether a serialised policy has no faults; most jobs have one of a few."""
    faults = Faults("")
    _retry_policy(RetryPolicy.FromString(policy), faults)
    return not faults.found


def _retry_policy(policy: RetryPolicy, faults: Faults) -> None:
    initial, most = micros_of(policy.initial_delay), micros_of(policy.max_delay)
    if not 1 <= policy.max_attempts <= _MOST_ATTEMPTS:
        faults.add("retry_policy.max_attempts", f"must be 1 to {_MOST_ATTEMPTS}")
    if not _LEAST_DELAY <= initial <= _MOST_DELAY:
        faults.add("retry_policy.initial_delay", "must be 10 ms to 24 h")
    if not _LEAST_DELAY <= most <= _MOST_DELAY:
        faults.add("retry_policy.max_delay", "must be 10 ms to 24 h")
    if not 1.0 <= policy.multiplier <= 10.0:
        faults.add("retry_policy.multiplier", "must be 1.0 to 10.0")
    if len(policy.non_retryable_reasons) > _MOST_REASONS:
        faults.add("retry_policy.non_retryable_reasons", f"must be at most {_MOST_REASONS}")
    if any(len(reason) > 63 or "\0" in reason for reason in policy.non_retryable_reasons):
        faults.add("retry_policy.non_retryable_reasons", "must have at most 63 characters each")


def _labels(job: NewJob, faults: Faults) -> None:
    if len(job.labels) > _MOST_LABELS:
        faults.add("labels", f"must be at most {_MOST_LABELS}")
    for key, value in job.labels.items():
        if _LABEL_KEY.fullmatch(key) is None:
            faults.add("labels", "keys must match [a-z0-9][a-z0-9-_./]{0,62}")
        elif len(value) > 256 or "\0" in value:
            faults.add(f"labels.{key}", "must have at most 256 characters, none of them U+0000")


def definition(each: AgentDefinition, path: str) -> list[Violation]:
    """Check a definition to store."""
    faults = Faults(path)
    faults.name(each.agent, "agent")
    faults.name(each.pool, "pool")
    if not 1 <= each.lane <= 3:
        faults.add("lane", "must be one of the lanes")
    if each.WhichOneof("implementation") is None:
        faults.add("implementation", "must be set")
    else:
        faults.text(each.code.handler, "code.handler", 256)
    if len(each.tools) > 256 or any(_TOOL.fullmatch(tool) is None for tool in each.tools):
        faults.add("tools", "must be at most 256, each `integration.operation` or `integration.*`")
    if len(each.requires) > 32 or not all(map(is_name, each.requires)):
        faults.add("requires", "must be at most 32 names of integrations")
    if each.HasField("retry_policy"):
        _retry_policy(each.retry_policy, faults)
    if not _LEAST_TIMEOUT <= micros_of(each.attempt_timeout) <= _MOST_DELAY:
        faults.add("attempt_timeout", "must be 1 s to 24 h")
    faults.text(each.description, "description", 1024, least=0)
    if each.ByteSize() > BODY_BYTES:
        faults.add("", f"must have at most {BODY_BYTES} bytes")
    return faults.found
