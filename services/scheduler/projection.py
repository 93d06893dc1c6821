"""Projection: follows the log and keeps the stream's index of it, from block to message."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import grpc

from services.scheduler.bus import LEAST_BACKOFF, MOST_BACKOFF, Bus
from services.scheduler.figures import LAG, PUBLISHED
from services.scheduler.ledger import Cursor, LedgerClient
from services.scheduler.publisher import Publisher
from services.scheduler.routing import Plan, Router
from services.scheduler.singleton import Tenure, TenureLost
from services.scheduler.subjects import CANCELS, HINTS
from services.scheduler.tasks import run_together
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError
from workmesh.ledger.v1.block_pb2 import Block, Position
from workmesh.scheduler.v1.dispatch_pb2 import JobHint, JobHints

_logger = logging.getLogger(__name__)

QUEUED_RESPONSES: Final = 64
EVENTS_A_ROUND: Final = 4_096
HINTS_A_MESSAGE: Final = 4_096


class Diverged(Exception):
    """The ledger does not know a block that the cursor names: what was projected is not what happened."""


class Projection:
    """Publishes what blocks make runnable, and stores how far it came once that is known to be stored.

    A crash in between repeats some blocks: their messages carry ids that the stream has seen.
    """

    def __init__(
        self,
        ledger: LedgerClient,
        bus: Bus,
        publisher: Publisher,
        clock: Clock,
        *,
        cursor_seconds: float,
        pool_seen: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._bus = bus
        self._publisher = publisher
        self._clock = clock
        self._cursor_seconds = cursor_seconds
        self._pool_seen = pool_seen
        self._pools: set[str] = set()

    async def follow(self, tenure: Tenure, cursor: Cursor) -> None:
        """Project from the cursor on, until cancelled; raises Diverged and TenureLost."""
        self._pools.clear()
        progress = _Progress(cursor)
        responses: asyncio.Queue[Sequence[Block]] = asyncio.Queue(QUEUED_RESPONSES)
        await run_together(
            self._read(dict(cursor.positions), responses),
            self._write(cursor.generation, responses, progress),
            self._store(tenure, progress),
        )

    async def _read(self, positions: dict[int, Position], responses: asyncio.Queue[Sequence[Block]]) -> None:
        """Read the feed, connecting again from the last block that was taken from it."""
        backoff = LEAST_BACKOFF
        while True:
            try:
                async for blocks in self._ledger.tail(positions.values()):
                    backoff = LEAST_BACKOFF
                    await responses.put(blocks)
                    _advance(positions, blocks)
            except MeshError as error:
                if error.reason == "FEED_DIVERGED":
                    raise Diverged(error.message) from error
                _logger.warning(
                    "the feed broke off",
                    extra={"action": "feed_lost", "reason": error.reason, "cause": error.message},
                )
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(MOST_BACKOFF, backoff * 2)

    async def _write(
        self, generation: str, responses: asyncio.Queue[Sequence[Block]], progress: _Progress
    ) -> None:
        """Publish what the blocks ask for, as many at a time as have come."""
        router = Router(generation)
        while True:
            blocks = list(await responses.get())
            count = sum(block.event_count for block in blocks)
            while count < EVENTS_A_ROUND and not responses.empty():
                more = responses.get_nowait()
                blocks.extend(more)
                count += sum(block.event_count for block in more)
            plan = router.plan(blocks, micros(self._clock.time()))
            self._broadcast(plan)
            self._see_pools(plan.pools)
            await self._publisher.publish(plan.publications, identified=True)
            PUBLISHED.inc(len(plan.publications))
            LAG.set(max(0.0, self._clock.time() - blocks[-1].time_micros / 1e6))
            progress.advance(blocks)

    def _broadcast(self, plan: Plan) -> None:
        """Tell watchers and the other schedulers; what is lost here they learn by themselves, later."""
        for subject, hints in ((HINTS, plan.hints), (CANCELS, plan.cancels)):
            for start in range(0, len(hints), HINTS_A_MESSAGE):
                part: list[JobHint] = hints[start : start + HINTS_A_MESSAGE]
                self._bus.send(subject, JobHints(hints=part).SerializeToString())

    def _see_pools(self, pools: set[str]) -> None:
        for pool in pools - self._pools:
            self._pools.add(pool)
            self._pool_seen(pool)

    async def _store(self, tenure: Tenure, progress: _Progress) -> None:
        """Store the cursor when it has moved, not more often than the settings say."""
        while True:
            await progress.moved.wait()
            progress.moved.clear()
            try:
                await self._ledger.store_cursor(tenure.epoch, progress.cursor())
            except MeshError as error:
                if error.code is grpc.StatusCode.ABORTED:
                    raise TenureLost(error.message) from error
                progress.moved.set()
                _logger.warning(
                    "the cursor could not be stored",
                    extra={"action": "cursor_failed", "reason": error.reason},
                )
            await asyncio.sleep(max(self._cursor_seconds, LEAST_BACKOFF))


class _Progress:
    """How far projection came."""

    def __init__(self, cursor: Cursor) -> None:
        self._start = cursor
        self._positions = dict(cursor.positions)
        self.moved = asyncio.Event()

    def advance(self, blocks: Iterable[Block]) -> None:
        _advance(self._positions, blocks)
        self.moved.set()

    def cursor(self) -> Cursor:
        return replace(self._start, positions=dict(self._positions))


def _advance(positions: dict[int, Position], blocks: Iterable[Block]) -> None:
    for block in blocks:
        positions[block.chain] = Position(
            timeline=block.timeline, chain=block.chain, height=block.height, hash=block.hash
        )
