"""Reads of state documents; look-ups of concurrent callers share a statement."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from services.ledger import statements
from services.ledger.byte_pages import MAX_PAGE_BYTES, BytePage, cut_page
from services.ledger.job_records import state_document
from services.ledger.read_pool import ReadPool
from workmesh.batching import Batcher, BatcherStats
from workmesh.ledger.v1.job_pb2 import StateDocument

_FETCH_SECONDS: Final = 5.0
# Bodies that one batch may hold in memory.
_MAX_BATCH_BYTES: Final = 64 << 20

_PLACE, _WITHHELD = 6, 7


class StateKey(NamedTuple):
    """Names a document."""

    client_id: str
    collection: str
    key: str


class FoundState(NamedTuple):
    """A document, of version 0 if it does not exist; `withheld` where the whole batch would be too large."""

    document: StateDocument
    withheld: bool


class StateReads:
    """Reads documents at their current versions."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._sql = statements.load("reads")
        self._batcher: Batcher[StateKey, FoundState] = Batcher(
            self._fetch, name="ledger_get_states", max_items=256, flights=2
        )

    def get(self, keys: Sequence[StateKey]) -> asyncio.Future[list[FoundState]]:
        """Look documents up, one per key."""
        return self._batcher.submit(keys)

    async def page(self, client_id: str, collection: str, after: str, limit: int) -> BytePage:
        """List a collection by key, after a key: rows for `state_document`."""
        statement = self._sql["list_states"]
        rows = await self._pool.fetch(statement, client_id, collection, after, limit + 1, MAX_PAGE_BYTES)
        return cut_page(rows, limit)

    def stats(self) -> BatcherStats:
        """Return what the batcher of look-ups did."""
        return self._batcher.stats()

    async def close(self) -> None:
        """Answer what was asked and take nothing more."""
        await self._batcher.close()

    async def _fetch(self, keys: list[StateKey]) -> list[FoundState]:
        rows = await self._pool.fetch(
            self._sql["get_states"], *zip(*keys, strict=True), _MAX_BATCH_BYTES, seconds=_FETCH_SECONDS
        )
        found = [
            FoundState(StateDocument(collection=key.collection, key=key.key), withheld=False) for key in keys
        ]
        for row in rows:
            found[row[_PLACE] - 1] = FoundState(state_document(row), row[_WITHHELD])
        return found
