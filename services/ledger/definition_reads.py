"""Reads of agent definitions."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger import statements
from services.ledger.byte_pages import MAX_PAGE_BYTES, BytePage, cut_page
from services.ledger.read_pool import ReadPool, Row


class DefinitionReads:
    """Reads definitions as rows whose first column is the serialised definition."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._sql = statements.load("reads")

    async def get(self, refs: Sequence[tuple[str, int]]) -> list[Row]:
        """Return those found of (agent, version), in the order asked for; version 0 is the default."""
        return await self._pool.fetch(self._sql["get_definitions"], *zip(*refs, strict=True))

    async def defaults(self, after: str, limit: int) -> BytePage:
        """List default versions by agent, after an agent."""
        statement = self._sql["list_default_definitions"]
        return cut_page(await self._pool.fetch(statement, after, limit + 1, MAX_PAGE_BYTES), limit)

    async def versions(self, agent: str, after: int, limit: int) -> BytePage:
        """List an agent's versions, after a version."""
        statement = self._sql["list_versions"]
        return cut_page(await self._pool.fetch(statement, agent, after, limit + 1, MAX_PAGE_BYTES), limit)
