"""Agent definitions as the gateway needs them: resolved, with their schemas compiled once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from workmesh import errors
from workmesh.clock import Clock
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.payload import struct_to_json
from workmesh.schema import CompiledSchema

_MOST_CACHED = 4_096


@dataclass(frozen=True, slots=True)
class Definition:
    """A definition and its compiled input schema."""

    proto: AgentDefinition
    input_schema: CompiledSchema | None


class DefinitionSource(Protocol):
    """Where definitions are read from."""

    async def get_definition(self, agent: str, version: int) -> AgentDefinition | None:
        """Return a version of an agent, its default for 0, or None."""


class Definitions:
    """Caches definitions: versions for good, since they never change, defaults for a short while.

    Unknown agents are asked for each time, but by one call at a time, so that a definition just applied is
    found at once and a storm of misspelt names costs the ledger little.
    """

    def __init__(self, source: DefinitionSource, clock: Clock, default_seconds: float) -> None:
        self._source = source
        self._clock = clock
        self._default_seconds = default_seconds
        self._versions: OrderedDict[tuple[str, int], Definition] = OrderedDict()
        self._defaults: dict[str, tuple[float, Definition]] = {}
        self._asked: dict[tuple[str, int], asyncio.Task[Definition]] = {}

    def cached(self, agent: str, version: int) -> Definition | None:
        """Return the definition if it is known without asking."""
        if version:
            return self._versions.get((agent, version))
        found = self._defaults.get(agent)
        return found[1] if found is not None and found[0] > self._clock.monotonic() else None

    async def get(self, agent: str, version: int) -> Definition:
        """Return the definition; NOT_FOUND AGENT_NOT_FOUND if there is none."""
        found = self.cached(agent, version)
        if found is not None:
            return found
        key = (agent, version)
        task = self._asked.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(agent, version))
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        return await asyncio.shield(task)

    def forget(self, agent: str) -> None:
        """Drop an agent's remembered default: another version may have taken its place."""
        self._defaults.pop(agent, None)

    async def _ask(self, agent: str, version: int) -> Definition:
        proto = await self._source.get_definition(agent, version)
        if proto is None:
            raise errors.not_found("agent", f"{agent}@{version}" if version else agent)
        definition = self._versions.get((proto.agent, proto.version)) or compile_definition(proto)
        self._keep(definition)
        if not version:
            self._defaults[agent] = (self._clock.monotonic() + self._default_seconds, definition)
        return definition

    def _keep(self, definition: Definition) -> None:
        self._versions[definition.proto.agent, definition.proto.version] = definition
        while len(self._versions) > _MOST_CACHED:
            self._versions.popitem(last=False)


def compile_definition(proto: AgentDefinition) -> Definition:
    """Return the definition with its input schema compiled."""
    if not proto.HasField("input_schema"):
        return Definition(proto, None)
    return Definition(proto, CompiledSchema(struct_to_json(proto.input_schema, field="input_schema")))
