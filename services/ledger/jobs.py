"""The job as the ledger decides about it: its row, its states and how an item may change them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

import orjson
from google.rpc.status_pb2 import Status

from workmesh.common.v1 import job_pb2
from workmesh.common.v1.job_pb2 import JobState, Lane, RetryPolicy
from workmesh.ledger.v1.event_pb2 import Actor, Event
from workmesh.ledger.v1.job_pb2 import JobRecord

SCHEDULED: Final = job_pb2.JOB_STATE_SCHEDULED
QUEUED: Final = job_pb2.JOB_STATE_QUEUED
RUNNING: Final = job_pb2.JOB_STATE_RUNNING
WAITING: Final = job_pb2.JOB_STATE_WAITING
PAUSED: Final = job_pb2.JOB_STATE_PAUSED
SUCCEEDED: Final = job_pb2.JOB_STATE_SUCCEEDED
FAILED: Final = job_pb2.JOB_STATE_FAILED
CANCELLED: Final = job_pb2.JOB_STATE_CANCELLED
DEAD_LETTERED: Final = job_pb2.JOB_STATE_DEAD_LETTERED

TERMINAL: Final = frozenset({SUCCEEDED, FAILED, CANCELLED, DEAD_LETTERED})

# How the current epoch ended (jobs.ending).
OPEN: Final = 0
COMMITTED: Final = 1
REPORTED: Final = 2
TAKEN: Final = 3


class JobRow(NamedTuple):
    """One row of `jobs`, in the order in which statements select its columns."""

    job_id: str
    client_id: str
    agent: str
    version: int
    pool: str
    lane: Lane.ValueType
    fairness_key: str
    state: JobState.ValueType
    attempt: int
    series: int
    epoch: int
    dispatch: int
    seq: int
    step_count: int
    run_time_micros: int
    deadline_micros: int
    create_time_micros: int
    update_time_micros: int
    max_attempts: int
    retry_policy: bytes
    labels: str
    parent_job_id: str | None
    traceparent: str
    lease_id: str | None
    instance: str
    lease_expire_micros: int
    ending: int
    cancel_requested: bool
    cancel_reason: str
    error: bytes | None
    fingerprint: bytes | None


class StepRow(NamedTuple):
    """One row of `steps`, in the order of its columns."""

    job_id: str
    series: int
    ordinal: int
    step: str
    kind: int
    name: str
    arguments_digest: bytes
    outcome_digest: bytes
    result: bytes | None
    error: bytes | None
    epoch: int
    start_time_micros: int
    end_time_micros: int


class VersionRow(NamedTuple):
    """One row of `state_versions`, in the order of its columns."""

    client_id: str
    collection: str
    key: str
    version: int
    body: bytes
    job_id: str
    epoch: int
    create_time_micros: int


class EffectRow(NamedTuple):
    """One row of `effects`, in the order of its columns."""

    job_id: str
    series: int
    step: str
    tool: str
    arguments_digest: bytes
    state: int
    epoch: int
    call_deadline_micros: int
    claim_time_micros: int
    settle_time_micros: int
    result: bytes | None
    source: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What the ledger goes by: lease and allowance in microseconds, its own name, a draw from [0, 1)."""

    lease_micros: int
    allowance_micros: int
    ledger: Actor
    draw: Callable[[], float]


Outcome = TypeVar("Outcome", covariant=True)


@dataclass(frozen=True, slots=True)
class Decision(Generic[Outcome]):
    """What becomes of an item: the answer and, when it changes something, everything to be written."""

    outcome: Outcome
    job: JobRow | None = None
    events: Sequence[Event] = ()
    steps: Sequence[StepRow] = ()
    output: bytes | None = None
    versions: Sequence[VersionRow] = ()
    effect: EffectRow | None = None


def ended(
    job: JobRow, state: JobState.ValueType, now_micros: int, ending: int, *, error: Status | None = None
) -> JobRow:
    """Return the job without a holder in a state; `ending` says how its epoch ended."""
    return job._replace(
        state=state,
        update_time_micros=now_micros,
        lease_id=None,
        instance="",
        lease_expire_micros=0,
        ending=ending,
        error=job.error if error is None else error.SerializeToString(),
    )


def policy_of(job: JobRow) -> RetryPolicy:
    """Return the retry policy in force."""
    return RetryPolicy.FromString(job.retry_policy)


def fill_record(record: JobRecord, job: JobRow) -> None:
    """Fill in a job as the services see it, bodies aside."""
    record.job_id = job.job_id
    record.client_id = job.client_id
    record.agent = job.agent
    record.version = job.version
    record.pool = job.pool
    record.lane = job.lane
    record.state = job.state
    record.attempt = job.attempt
    record.series = job.series
    record.epoch = job.epoch
    record.dispatch = job.dispatch
    record.seq = job.seq
    record.fairness_key = job.fairness_key
    record.run_time_micros = job.run_time_micros
    record.deadline_micros = job.deadline_micros
    record.create_time_micros = job.create_time_micros
    record.update_time_micros = job.update_time_micros
    record.retry_policy.MergeFromString(job.retry_policy)
    record.traceparent = job.traceparent
    record.cancel_requested = job.cancel_requested
    record.instance = job.instance
    record.lease_expire_micros = job.lease_expire_micros
    if job.labels != "{}":
        record.labels.update(orjson.loads(job.labels))
    if job.parent_job_id is not None:
        record.parent_job_id = job.parent_job_id
    if job.error is not None:
        record.error.MergeFromString(job.error)
