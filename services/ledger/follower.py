"""One follower's way through the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from services.ledger.block_reader import BlockReader, diverged
from services.ledger.chain_heads import ChainHeads
from workmesh import errors, metrics
from workmesh.chain import GENESIS
from workmesh.ledger.v1.block_pb2 import Block, Position

_sent = metrics.counter("workmesh_ledger_feed_blocks_total", "Blocks sent to followers.", ("source",))
_from_memory, _from_database = _sent.labels("memory"), _sent.labels("database")


@dataclass(frozen=True, slots=True)
class FeedPolicy:
    """Bounds: recent blocks kept per chain, size of one response, seconds between signs of life."""

    recent_blocks: int = 1_024
    recent_bytes: int = 16 << 20
    response_blocks: int = 256
    response_bytes: int = 2 << 20
    sign_of_life: float = 5.0


class ChainNews(Protocol):
    """Where followers report what they come upon, for all to know."""

    def heard(self, chain: int, height: int) -> None: ...

    async def sweep(self, reader: BlockReader) -> None: ...


class Follower:
    """Pulls the next blocks of every chain; holds nothing but its positions in between."""

    def __init__(
        self,
        heads: ChainHeads,
        reader: BlockReader,
        news: ChainNews,
        policy: FeedPolicy,
        after: Iterable[Position],
    ) -> None:
        self._heads = heads
        self._reader = reader
        self._news = news
        self._policy = policy
        self._cursors = {each.chain: (each.height, each.hash) for each in after if each.height}
        self._turn = 0
        self._awake = asyncio.Event()
        self._ended = False

    def wake(self) -> None:
        """Let `next` look for blocks again."""
        self._awake.set()

    def end(self) -> None:
        """Let `next` raise UNAVAILABLE DRAINING."""
        self._ended = True
        self._awake.set()

    async def next(self) -> list[Block]:
        """Return the next blocks as soon as there are any; none if that takes 5 s.

        Raises ABORTED FEED_DIVERGED if the log is no longer the one whose blocks were returned before.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._policy.sign_of_life
        while not self._ended:
            self._awake.clear()
            if blocks := await self._collect():
                return blocks
            try:
                async with asyncio.timeout_at(until):
                    await self._awake.wait()
            except TimeoutError:
                return []
        raise errors.unavailable("DRAINING", "the process is draining", retry_after=0.1)

    async def _collect(self) -> list[Block]:
        """Gather what fits in one response: recent blocks of all chains, or stored ones of one chain."""
        response = _Response(self._policy)
        for chain in self._chains_behind():
            if not self._take_recent(chain, response) and not response.blocks:
                await self._take_stored(chain, response)
            if response.full:
                break
        return response.blocks

    def _chains_behind(self) -> list[int]:
        """Return the chains with blocks to come, another one first each time so that none is kept waiting."""
        behind = []
        for chain, head in self._heads:
            height = self._cursor(chain)[0]
            if height > head:
                raise diverged(chain, height)
            if height < head:
                behind.append(chain)
        self._turn += 1
        start = self._turn % len(behind) if behind else 0
        return behind[start:] + behind[:start]

    def _take_recent(self, chain: int, response: _Response) -> bool:
        """Take what fits from memory; False if the next block is not there."""
        recent = self._heads.recent(chain).after(self._cursor(chain)[0])
        if recent is None:
            return False
        for block, size in recent:
            if not response.has_room(size):
                break
            self._pass(block)
            response.add(block, size)
            _from_memory.inc()
        return True

    async def _take_stored(self, chain: int, response: _Response) -> None:
        """Take what fits from the database."""
        blocks = await self._reader.after(chain, self._cursor(chain)[0], self._policy.response_bytes)
        if not blocks:
            # What was heard of is not there: either it was hearsay or the log has lost it.
            await self._news.sweep(self._reader)
        else:
            # It may have come further than anybody told.
            self._news.heard(chain, blocks[-1].height)
        for block in blocks:
            size = block.ByteSize()
            if not response.has_room(size):
                break
            self._pass(block)
            response.add(block, size)
            _from_database.inc()

    def _pass(self, block: Block) -> None:
        """Move the chain's cursor to its next block, which must follow the one before."""
        height, last = self._cursor(block.chain)
        if block.height != height + 1 or block.prev_hash != last:
            raise diverged(block.chain, height)
        self._cursors[block.chain] = (block.height, block.hash)

    def _cursor(self, chain: int) -> tuple[int, bytes]:
        return self._cursors.get(chain, (0, GENESIS))


class _Response:
    """Blocks for one response; a single one may exceed the bound of bytes."""

    def __init__(self, policy: FeedPolicy) -> None:
        self.blocks: list[Block] = []
        self.full = False
        self._bytes_left = policy.response_bytes
        self._blocks_left = policy.response_blocks

    def has_room(self, size: int) -> bool:
        self.full = bool(self.blocks) and (size > self._bytes_left or not self._blocks_left)
        return not self.full

    def add(self, block: Block, size: int) -> None:
        self.blocks.append(block)
        self._bytes_left -= size
        self._blocks_left -= 1
