"""Agent definitions: what makes two of them one version, and the version a new one gets."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.ledger.items import Apply
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import LANE_STANDARD, RetryPolicy
from workmesh.ledger.v1.event_pb2 import DefinitionApplied, Event

_ATTEMPT_SECONDS: Final = 3600


@dataclass(frozen=True, slots=True)
class Shelf:
    """The versions of one agent: numbers by digest."""

    versions: Mapping[str, int]

    @property
    def next_version(self) -> int:
        """The number of the next new version."""
        return max(self.versions.values(), default=0) + 1


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A definition to be stored, output-only fields set, and its event."""

    definition: AgentDefinition
    event: Event


def normalised(definition: AgentDefinition) -> AgentDefinition:
    """Return a definition's content with defaults in place of what is unset, output-only fields cleared.

    Two ways of saying the same are one version.
    """
    content = AgentDefinition()
    content.CopyFrom(definition)
    for field in ("version", "digest", "create_time"):
        content.ClearField(field)
    content.pool = content.pool or "default"
    content.lane = content.lane or LANE_STANDARD
    if not content.HasField("attempt_timeout"):
        content.attempt_timeout.seconds = _ATTEMPT_SECONDS
    if content.HasField("retry_policy"):
        _fill(content.retry_policy)
    return content


def _fill(policy: RetryPolicy) -> None:
    policy.max_attempts = policy.max_attempts or 10
    policy.multiplier = policy.multiplier or 2.0
    if not policy.HasField("initial_delay"):
        policy.initial_delay.seconds = 1
    if not policy.HasField("max_delay"):
        policy.max_delay.seconds = 60


def digest_of(content: AgentDefinition) -> str:
    """Return the SHA-256 (hex) of a normalised definition."""
    return hashlib.sha256(content.SerializeToString(deterministic=True)).hexdigest()


def apply(shelf: Shelf, item: Apply, now_micros: int) -> NewVersion | int:
    """Return the version under which the content is known, or the new one to be stored."""
    known = shelf.versions.get(item.digest)
    if known is not None:
        return known
    definition = AgentDefinition()
    definition.CopyFrom(item.definition)
    definition.version = shelf.next_version
    definition.digest = item.digest
    definition.create_time.FromMicroseconds(now_micros)
    event = Event(
        time_micros=now_micros,
        client_id=item.actor.id if item.actor.kind == item.actor.KIND_CLIENT else "",
        actor=item.actor,
        definition_applied=DefinitionApplied(definition=definition),
    )
    return NewVersion(definition, event)
