"""Followers that check what they are sent, and work for them to follow."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg

from services.ledger.feed import Feed
from services.ledger.follower import Follower
from services.ledger.notifier import Notifier
from tests.integration.ledger_reads.mesh import Ledger
from workmesh.ledger.v1.block_pb2 import Block, Position

NEVER = 3_600.0


def position(block: Block) -> Position:
    return Position(timeline=block.timeline, chain=block.chain, height=block.height, hash=block.hash)


class Reader:
    """Pulls blocks from a follower and checks that each chain comes in order and without gaps."""

    def __init__(self, feed: Feed, follower: Follower, after: Iterable[Position] = ()) -> None:
        self.blocks: list[Block] = []
        self.sizes: list[int] = []
        self._feed = feed
        self._follower = follower
        self._cursors = {each.chain: each for each in after}

    @classmethod
    async def join(cls, feed: Feed, after: Iterable[Position] = ()) -> Reader:
        positions = list(after)
        return cls(feed, await feed.follow(positions), positions)

    @property
    def positions(self) -> list[Position]:
        return list(self._cursors.values())

    @property
    def position_sum(self) -> int:
        """How many blocks of all chains it has come past: each chain begins at height 1."""
        return sum(each.height for each in self._cursors.values())

    async def pull(self) -> list[Block]:
        blocks = await self._follower.next()
        for block in blocks:
            before = self._cursors.get(block.chain, Position())
            assert block.height == before.height + 1
            assert block.prev_hash == (before.hash or bytes(32))
            self._cursors[block.chain] = position(block)
        self.blocks += blocks
        self.sizes.append(len(blocks))
        return blocks

    async def pull_until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not reached():
                await self.pull()

    async def pull_all(self, ledger: Ledger) -> None:
        """Pull until every block that the ledger has committed by now is here."""
        await self.pull_until(lambda: self.has(ledger.blocks.all))

    def has(self, blocks: Iterable[Block]) -> bool:
        return all(
            block.chain in self._cursors and self._cursors[block.chain].height >= block.height
            for block in blocks
        )

    def leave(self) -> None:
        self._feed.leave(self._follower)


def by_place(blocks: Iterable[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: (block.chain, block.height))


async def work(ledger: Ledger, batches: int) -> None:
    """Commit blocks on both chains at once."""

    async def half() -> None:
        for _ in range(batches // 2):
            await ledger.create(random.randint(1, 4))

    await asyncio.gather(half(), half())


@asynccontextmanager
async def notified(*ledgers: Ledger) -> AsyncIterator[None]:
    """Let ledgers notify of their blocks as services do."""
    tasks = []
    for ledger in ledgers:
        pool = await asyncpg.create_pool(ledger.url, min_size=1, max_size=1)
        notifier = Notifier(pool, ledger.name)
        ledger.blocks.listeners.append(notifier.committed)
        tasks.append((asyncio.create_task(notifier.run()), pool))
    yield
    for task, pool in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await pool.close()
