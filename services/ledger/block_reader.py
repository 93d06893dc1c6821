"""The committed log as PostgreSQL has it."""

from __future__ import annotations

from collections.abc import Iterable

from services.ledger import statements
from services.ledger.job_records import position
from services.ledger.read_pool import Fetch, Row
from workmesh import errors
from workmesh.ledger.v1.block_pb2 import Block, Position

_PAGE_EVENTS = 8_192


class BlockReader:
    """Reads blocks through any connection with the rights of workmesh_feed or workmesh_auditor."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._sql = statements.load("feed")

    async def heads(self) -> list[Position]:
        """Return the newest position of every chain."""
        return [position(row) for row in await self._fetch(self._sql["heads"])]

    async def after(self, chain: int, height: int, max_bytes: int) -> list[Block]:
        """Return the next blocks of a chain in order, at least one if there is one, of about `max_bytes`."""
        rows = await self._fetch(self._sql["blocks_after"], chain, height, _PAGE_EVENTS, max_bytes)
        return [_block(row) for row in rows]

    async def check(self, positions: Iterable[Position]) -> None:
        """Raise ABORTED FEED_DIVERGED if a position names a block that the log does not have."""
        named = [each for each in positions if each.height]
        if not named:
            return
        places = [(each.chain, each.height) for each in named]
        rows = await self._fetch(self._sql["block_hashes"], *zip(*places, strict=True))
        stored = {(chain, height): hash_ for chain, height, hash_ in rows}
        for each in named:
            if stored.get((each.chain, each.height)) != each.hash:
                raise diverged(each.chain, each.height)

    async def cursor(self, name: str) -> Row | None:
        """Return a follower's cursor: epoch, serialised positions, data; None if it never stored one."""
        rows = await self._fetch(self._sql["cursor"], name)
        return rows[0] if rows else None


def diverged(chain: int, height: int) -> errors.MeshError:
    """Say that a follower stands at a block that the log does not have."""
    return errors.aborted(
        "FEED_DIVERGED",
        f"chain {chain} has another block, or none, at height {height}: begin anew",
        chain=str(chain),
        height=str(height),
    )


def _block(row: Row) -> Block:
    chain, height, timeline, prev_hash, merkle_root, hash_, time_micros, event_count, events = row
    return Block(
        chain=chain,
        height=height,
        timeline=timeline,
        prev_hash=prev_hash,
        merkle_root=merkle_root,
        hash=hash_,
        time_micros=time_micros,
        event_count=event_count,
        events=events,
    )
