"""Definitions in memory: a version never changes, so what was read once is known for good."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

import asyncpg

from services.ledger import statements
from services.ledger.read_pool import told_as_mesh_errors
from workmesh.common.v1.definition_pb2 import AgentDefinition

_MOST: Final = 10_000
_READ: Final = statements.load("definitions")["read_definitions"]

Ref = tuple[str, int]
"""Agent and version."""


class Catalog:
    """Reads definitions through; keeps the ones used last."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known: OrderedDict[Ref, AgentDefinition] = OrderedDict()

    async def find(self, refs: Iterable[Ref]) -> dict[Ref, AgentDefinition]:
        """Return those definitions that exist; they are shared and must not be changed."""
        wanted = set(refs)
        found = {ref: self._known[ref] for ref in wanted if ref in self._known}
        missing = sorted(wanted - found.keys())
        if missing:
            with told_as_mesh_errors():
                rows = await self._pool.fetch(_READ, *zip(*missing, strict=True))
            for row in rows:
                found[row["agent"], row["version"]] = AgentDefinition.FromString(row["body"])
        for ref, definition in found.items():
            self._known[ref] = definition
            self._known.move_to_end(ref)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return found
