"""The queues of all pools, kept on the stream's present generation."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final

from services.scheduler.messages import Message
from services.scheduler.pool import PoolQueue
from services.scheduler.stream import JobsStream, StreamFault

_logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 2.0
MISSING_SECONDS: Final = 0.2


class Pools:
    """Opens a queue per pool, and moves all of them when the stream was made anew.

    Whoever makes the stream calls `use`; schedulers that did not make it notice within LOOK_SECONDS, or at
    once when a pull is refused.
    """

    def __init__(
        self, stream: JobsStream, make: Callable[[str], PoolQueue], renewed: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._make = make
        self._renewed = renewed
        self._queues: dict[str, PoolQueue] = {}
        self._seen: set[str] = set()
        self._look = asyncio.Event()
        self._known = asyncio.Event()
        self.generation = ""

    def __iter__(self) -> Iterator[PoolQueue]:
        return iter(list(self._queues.values()))

    async def wait_known(self) -> None:
        """Return when there is a stream."""
        await self._known.wait()

    async def open(self, pool: str) -> None:
        """Serve a pool from now on."""
        if pool in self._queues:
            return
        queue = self._queues[pool] = self._make(pool)
        await queue.open()
        self.look()

    def see(self, pool: str) -> None:
        """Have consumers for a pool that jobs name, whether it has instances here or not."""
        if pool not in self._seen:
            self._seen.add(pool)
            self.look()

    def use(self, generation: str) -> None:
        """Turn to a generation of the stream; what is held of another is forgotten."""
        if generation == self.generation:
            return
        self.generation = generation
        self._renewed()
        for queue in self:
            queue.use("")
        if generation:
            self._known.set()
            self.look()
        else:
            self._known.clear()

    def look(self) -> None:
        """Look after the stream and the consumers soon."""
        self._look.set()

    def broken(self, pool: str) -> None:
        """Note that a pool's consumer is not there."""
        self._stream.forget_pool(pool)
        self.look()

    def connection_changed(self, connected: bool) -> None:
        """Forget outstanding pulls when the connection is lost, look at the stream when it is back."""
        if connected:
            self.look()
        else:
            for queue in self:
                queue.disconnected()

    def wake(self, pools: frozenset[str]) -> None:
        """Match messages and slots of some pools."""
        for pool in pools:
            queue = self._queues.get(pool)
            if queue is not None:
                queue.wake()

    def offer_again(self, message: Message) -> None:
        """Offer a message whose lease is lost."""
        queue = self._queues.get(message.dispatch.pool)
        if queue is not None:
            queue.offer_again(message)

    def check(self, now: float) -> None:
        """Look after lost pulls."""
        for queue in self:
            queue.check(now)

    async def run(self) -> None:
        """Keep every queue on the present generation, for ever."""
        while True:
            try:
                await self._refresh()
            except StreamFault as error:
                _logger.info(
                    "the stream cannot be looked at",
                    extra={"action": "stream_unreachable", "error": f"{type(error).__name__}: {error}"},
                )
            try:
                async with asyncio.timeout(LOOK_SECONDS if self.generation else MISSING_SECONDS):
                    await self._look.wait()
                # At most a few times a second, however often something is found broken.
                await asyncio.sleep(MISSING_SECONDS / 4)
            except TimeoutError:
                pass

    async def close(self) -> None:
        """Hand back what is held."""
        for queue in self:
            await queue.close()

    async def _refresh(self) -> None:
        self._look.clear()
        generation = await self._stream.generation()
        self.use(generation)
        if not generation:
            return
        for pool in [*self._queues, *(self._seen - self._queues.keys())]:
            await self._stream.ensure_pool(pool, generation)
            if self.generation != generation:
                return
            queue = self._queues.get(pool)
            if queue is not None:
                queue.repair(generation)
