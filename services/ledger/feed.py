"""The feed: committed blocks for any number of followers, each chain in order and without gaps.

    feed = Feed(BlockReader(ReadPool(pool).fetch), BlockListener(connect), FeedPolicy())
    await feed.start()      # from here on all heads are known
    feed.committed(block)   # by the writers of this process, after each commit
    ...
    await feed.close()

`pool` and `connect()` have the rights of workmesh_feed. Chains grow independently: only the order within a
chain is promised. A follower's next block comes from memory while it is among the recent ones, else from
the database.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from services.ledger.block_listener import BlockListener
from services.ledger.block_reader import BlockReader
from services.ledger.chain_heads import ChainHeads
from services.ledger.follower import FeedPolicy, Follower
from workmesh import metrics
from workmesh.ledger.v1.block_pb2 import Block, Position

_PAYLOAD: Final = re.compile(r"([0-9]{1,9}):([0-9]{1,18})")

_followers = metrics.gauge("workmesh_ledger_feed_followers_items", "Followers of the feed.")


class Feed:
    """Learns of every committed block and wakes the followers.

    `instance` is the payload with which this process's own writers notify, if it names no blocks: `committed`
    has told of those before.
    """

    def __init__(
        self, reader: BlockReader, listener: BlockListener, policy: FeedPolicy, *, instance: str = ""
    ) -> None:
        self._reader = reader
        self._listener = listener
        self._policy = policy
        self._instance = instance
        self._heads = ChainHeads(policy.recent_blocks, policy.recent_bytes)
        self._followers: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> asyncio.Task[None]:
        """Learn all heads, begin to listen, and return the task that does; it ends by `close` or in failure.

        UNAVAILABLE if the database does not answer.
        """
        await self.sweep(self._reader)
        run = self._listener.run(self._notified, self.sweep)
        self._task = asyncio.create_task(run, name="ledger-block-listener")
        return self._task

    async def close(self) -> None:
        """Stop listening and end all followers with UNAVAILABLE DRAINING."""
        self._closed = True
        for follower in self._followers:
            follower.end()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def committed(self, block: Block) -> None:
        """Take a block that a writer of this process has committed."""
        self._heads.committed(block)
        self._wake()

    async def follow(self, after: Iterable[Position]) -> Follower:
        """Return a follower that goes on after the positions: for `leave` in the end.

        ABORTED FEED_DIVERGED if one of them names a block that the log does not have.
        """
        positions = list(after)
        await self._reader.check(positions)
        for each in positions:
            self.heard(each.chain, each.height)
        follower = Follower(self._heads, self._reader, self, self._policy, positions)
        if self._closed:
            follower.end()
        self._followers.add(follower)
        _followers.set(len(self._followers))
        return follower

    def leave(self, follower: Follower) -> None:
        """Forget a follower."""
        self._followers.discard(follower)
        _followers.set(len(self._followers))

    def heard(self, chain: int, height: int) -> None:
        """Take note that a chain has come to a height."""
        if self._heads.heard(chain, height):
            self._wake()

    async def sweep(self, reader: BlockReader) -> None:
        """Read all heads anew."""
        before = dict(self._heads)
        if self._heads.replace(before, await reader.heads()):
            self._wake()

    def _notified(self, payload: str) -> bool:
        """Take a notification and tell whether the heads must be read to know what it means."""
        if payload and payload == self._instance:
            return False
        match = _PAYLOAD.fullmatch(payload)
        if match is not None:
            self.heard(int(match[1]), int(match[2]))
        return match is None

    def _wake(self) -> None:
        for follower in self._followers:
            follower.wake()
