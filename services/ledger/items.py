"""What callers ask of the ledger, one item at a time, and what they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from google.rpc.status_pb2 import Status

from services.ledger.jobs import JobRow
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import JobState
from workmesh.errors import MeshError
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.job_pb2 import JournalStep, StateDocument, StateWrite
from workmesh.ledger.v1.ledger_write_service_pb2 import (
    AttemptRefusal,
    ClaimEffectResult,
    FailAttempt,
    NewJob,
)

# ---------------------------------------------------------------- items


class Create(NamedTuple):
    """Accept a job; its client is the actor, `instance` the process that calls."""

    job: NewJob
    instance: str
    size: int


class Begin(NamedTuple):
    """Grant an attempt for an offer."""

    job_id: str
    dispatch: int
    lease_id: str
    instance: str
    size: int = 256


class Renew(NamedTuple):
    """Extend a lease."""

    job_id: str
    epoch: int
    size: int = 64


class Record(NamedTuple):
    """Journal steps."""

    job_id: str
    epoch: int
    steps: Sequence[JournalStep]
    instance: str
    size: int


class Commit(NamedTuple):
    """End an attempt well."""

    job_id: str
    epoch: int
    output: bytes
    steps: Sequence[JournalStep]
    writes: Sequence[StateWrite]
    instance: str
    size: int


class Fail(NamedTuple):
    """End an attempt badly."""

    job_id: str
    epoch: int
    verdict: FailAttempt.Verdict.ValueType
    error: Status
    retry_after_micros: int
    steps: Sequence[JournalStep]
    instance: str
    size: int


class Cancel(NamedTuple):
    """Cancel a job; an empty client means any."""

    job_id: str
    client_id: str
    reason: str
    actor: Actor
    size: int = 256


class Claim(NamedTuple):
    """Claim an unsafe effect."""

    job_id: str
    epoch: int
    step: str
    tool: str
    arguments_digest: bytes
    call_deadline_micros: int
    instance: str
    size: int = 512


class Settle(NamedTuple):
    """Record a claimed effect's outcome."""

    job_id: str
    series: int
    step: str
    done: bool
    result: bytes
    source: str
    instance: str
    size: int


class Apply(NamedTuple):
    """Store a definition; `digest` is that of its content."""

    definition: AgentDefinition
    digest: str
    actor: Actor
    size: int


JobItem = Begin | Renew | Record | Commit | Fail | Cancel | Claim | Settle
"""Items about one job that exists."""

Item = Create | JobItem | Apply

# ---------------------------------------------------------------- outcomes


class Created(NamedTuple):
    """The job under which the request is known."""

    job_id: str
    existing: bool


class Granted(NamedTuple):
    """The attempt may run; `journal` has what earlier attempts of the series recorded."""

    job: JobRow
    now_micros: int
    input: bytes = b""
    journal: Sequence[JournalStep] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """The attempt may not run; come back at `retry_time_micros` (0: not known)."""

    reason: AttemptRefusal.Reason.ValueType
    retry_time_micros: int = 0


class Renewed(NamedTuple):
    """The lease was extended."""

    job: JobRow
    now_micros: int


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to add."""


@dataclass(frozen=True, slots=True)
class Conflicted:
    """Documents were not at their expected version; they are given as they are."""

    error: MeshError
    documents: Sequence[StateDocument]


@dataclass(frozen=True, slots=True)
class Moved:
    """The state of the job afterwards."""

    state: JobState.ValueType


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is known of the effect."""

    standing: ClaimEffectResult.Standing.ValueType
    result: bytes = b""
    call_deadline_micros: int = 0


@dataclass(frozen=True, slots=True)
class Applied:
    """The definition as stored."""

    definition: AgentDefinition
    created: bool


Outcome = Created | Granted | Refused | Renewed | Done | Conflicted | Moved | Claimed | Applied | MeshError
"""A MeshError is the status of an item that failed."""

DONE = Done()
