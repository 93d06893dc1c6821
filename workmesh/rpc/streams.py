"""The one writer of a gRPC stream: concurrent `write()` calls on one stream break it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from workmesh import errors

Item = TypeVar("Item")
Message = TypeVar("Message")


class StreamSender(Generic[Item, Message]):
    """Gathers what many tasks put in one loop turn, or during a write, into one message.

    `combine` makes a message of 1 to `max_items` items in the order they were put; with `size_of` a message
    also stays within `max_bytes` unless a single item exceeds them. Exactly one task runs `run` or iterates
    `messages`.
    """

    def __init__(
        self,
        combine: Callable[[list[Item]], Message],
        *,
        name: str,
        max_items: int = 256,
        max_queued: int = 20_000,
        max_bytes: int = 2 << 20,
        size_of: Callable[[Item], int] | None = None,
    ) -> None:
        self.name = name
        self._combine = combine
        self._max_items = max_items
        self._max_queued = max_queued
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._queue: deque[Item] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: Item) -> None:
        """Queue an item without waiting.

        Raises RESOURCE_EXHAUSTED QUEUE_FULL when the peer does not keep up, UNAVAILABLE DRAINING once closed.
        """
        if self._closed:
            raise errors.unavailable("DRAINING", f"{self.name} is closed")
        if len(self._queue) >= self._max_queued:
            raise errors.resource_exhausted(
                "QUEUE_FULL", f"{self.name} is full", retry_after=0.1, queue=self.name
            )
        self._queue.append(item)
        self._filled.set()

    async def send(self, item: Item) -> None:
        """Queue an item, waiting for room; UNAVAILABLE DRAINING once closed."""
        while len(self._queue) >= self._max_queued and not self._closed:
            self._room.clear()
            await self._room.wait()
        self.put(item)

    def close(self) -> None:
        """Let the writer end after what is queued."""
        self._closed = True
        self._filled.set()
        self._room.set()

    async def run(self, write: Callable[[Message], Awaitable[object]]) -> None:
        """Write until closed and empty; a failing write closes the sender and is raised."""
        async with aclosing(self.messages()) as messages:
            async for message in messages:
                await write(message)

    async def messages(self) -> AsyncGenerator[Message, None]:
        """Yield the combined messages until closed and empty."""
        try:
            while True:
                if not self._queue:
                    if self._closed:
                        return
                    self._filled.clear()
                    await self._filled.wait()
                    continue
                yield self._combine(self._take())
        finally:
            self.close()

    def _take(self) -> list[Item]:
        queue = self._queue
        if self._size_of is None and len(queue) <= self._max_items:
            taken = list(queue)
            queue.clear()
        else:
            taken = self._take_measured()
        self._room.set()
        return taken

    def _take_measured(self) -> list[Item]:
        taken: list[Item] = []
        size = 0
        while self._queue and len(taken) < self._max_items:
            size += self._size_of(self._queue[0]) if self._size_of is not None else 0
            if taken and size > self._max_bytes:
                break
            taken.append(self._queue.popleft())
        return taken
