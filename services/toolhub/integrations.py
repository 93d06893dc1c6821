"""Integrations and their operations, as people configure them: plain values, no connections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from services.toolhub.secret import Secret
from workmesh.schema import CompiledSchema


class Kind(Enum):
    """How an integration is reached."""

    HTTP = "http"
    NOOP = "noop"


class Effect(Enum):
    """What an operation may do to the outside world."""

    READ = "read"
    IDEMPOTENT = "idempotent"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bulkhead: calls under way at once, and calls that wait for one of them to end."""

    running: int = 64
    waiting: int = 256


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that one request may take, and a call with all its requests and pauses."""

    per_try: float = 5.0
    total: float = 15.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Requests per call at most, and the bound of the pause after the first, growing to a cap (seconds)."""

    max_tries: int = 3
    initial_delay: float = 0.1
    multiplier: float = 2.0
    max_delay: float = 2.0


@dataclass(frozen=True, slots=True)
class ReadBack:
    """How to find out whether an unsafe effect took place.

    `operation` reads it. `arguments` maps that operation's arguments to dotted paths into the call's own
    (or IDEMPOTENCY_KEY); empty: the call's arguments that the operation knows. `result` is the dotted path
    in the answer at which the effect shows; empty: the whole answer. Only an authoritative one proves by not
    finding the effect that there is none.
    """

    operation: str
    authoritative: bool = False
    arguments: Mapping[str, str] = field(default_factory=dict)
    result: str = ""


IDEMPOTENCY_KEY: Final = "@idempotency_key"


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON Schema as written and compiled."""

    json: bytes
    compiled: CompiledSchema


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that an integration can do."""

    name: str
    effect: Effect
    description: str = ""
    method: str = ""
    path: str = ""
    input: Schema | None = None
    output: Schema | None = None
    read_back: ReadBack | None = None


@dataclass(frozen=True, slots=True)
class Integration:
    """One external system. `settle_delay` is how long after the end of a call its effect may still appear."""

    name: str
    kind: Kind
    operations: Mapping[str, Operation]
    address: str = ""
    secret: Secret | None = None
    connections: int = 20
    bounds: Bounds = Bounds()
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    settle_delay: float = 2.0
