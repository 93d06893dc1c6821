"""Natural batching: flush at once while a flight is free; what arrives meanwhile forms the next batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from workmesh import errors

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_RETRY_AFTER = 0.05
_MOST_RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class BatcherStats:
    """What a batcher did since it was made, and what waits in it now."""

    batches: int
    items: int
    failed_batches: int
    refused_items: int
    queued_items: int
    flying_batches: int


class _Group(Generic[Item, Result]):
    __slots__ = ("future", "items", "size")

    def __init__(self, items: Sequence[Item], size: int, future: asyncio.Future[list[Result]]) -> None:
        self.items = items
        self.size = size
        self.future = future


class Batcher(Generic[Item, Result]):
    """Gathers groups of items of many callers into batches for one flush function.

    A batch starts at the end of the loop turn while fewer than `flights` are under way, so an idle batcher
    adds no delay. Groups keep their order and are answered whole; only one larger than `max_items` is
    split. `flush` answers one result per item, in order; one that raises fails the groups of its batch and
    no others.

    `max_bytes` bounds a batch and `max_queued_bytes` the queue when `size_of` is given; a single group may
    exceed the former alone. `pace` is the least number of seconds between the starts of two flushes; a full
    batch does not wait for it.
    """

    def __init__(
        self,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result]]],
        *,
        name: str,
        max_items: int = 256,
        max_bytes: int = 2 << 20,
        size_of: Callable[[Item], int] | None = None,
        flights: int = 2,
        max_queued: int = 20_000,
        max_queued_bytes: int = 64 << 20,
        pace: float = 0.0,
    ) -> None:
        if max_items < 1 or flights < 1 or max_queued < 1:
            raise ValueError("max_items, flights and max_queued are at least 1")
        self.name = name
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._flights = flights
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._pace = pace
        self._queue: deque[_Group[Item, Result]] = deque()
        self._queued = 0
        self._queued_bytes = 0
        self._flying = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_start = 0.0
        self._closed = False
        self._flush_seconds = 0.0
        self._batches = self._items = self._failed = self._refused = 0

    def submit(self, items: Sequence[Item]) -> asyncio.Future[list[Result]]:
        """Queue a group and return the future of its results, one per item in order.

        Raises RESOURCE_EXHAUSTED QUEUE_FULL with retry_after when the queue has no room, UNAVAILABLE
        DRAINING after close. Cancelling the future takes the group back if it has not been flushed yet.
        """
        loop = asyncio.get_running_loop()
        if self._closed:
            raise errors.unavailable("DRAINING", f"{self.name} takes no more items")
        count = len(items)
        size = sum(map(self._size_of, items)) if self._size_of is not None else 0
        if self._queued and (
            self._queued + count > self._max_queued or self._queued_bytes + size > self._max_queued_bytes
        ):
            raise self._full(count)
        if count > self._max_items:
            return self._enqueue_parts(items, loop)
        return self._enqueue(items, size, loop)

    async def call(self, item: Item) -> Result:
        """Queue one item and return its result."""
        return (await self.submit((item,)))[0]

    def stats(self) -> BatcherStats:
        """Return the counts so far."""
        return BatcherStats(
            self._batches, self._items, self._failed, self._refused, self._queued, self._flying
        )

    async def close(self) -> None:
        """Refuse new items and return when all queued ones are answered."""
        self._closed = True
        while self._queue or self._tasks:
            self._start()
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def _full(self, count: int) -> errors.MeshError:
        self._refused += count
        turns = self._queued / (self._max_items * self._flights)
        wait = min(_MOST_RETRY_AFTER, max(_LEAST_RETRY_AFTER, turns * self._flush_seconds))
        return errors.resource_exhausted(
            "QUEUE_FULL", f"{self.name} is full", retry_after=wait, queue=self.name
        )

    def _enqueue(
        self, items: Sequence[Item], size: int, loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[list[Result]]:
        future: asyncio.Future[list[Result]] = loop.create_future()
        if not items:
            future.set_result([])
            return future
        self._queue.append(_Group(items, size, future))
        self._queued += len(items)
        self._queued_bytes += size
        if not self._starting and self._flying < self._flights:
            self._arm(loop)
        return future

    def _enqueue_parts(
        self, items: Sequence[Item], loop: asyncio.AbstractEventLoop
    ) -> asyncio.Future[list[Result]]:
        parts = []
        for start in range(0, len(items), self._max_items):
            part = items[start : start + self._max_items]
            size = sum(map(self._size_of, part)) if self._size_of is not None else 0
            parts.append(self._enqueue(part, size, loop))
        return loop.create_task(_join(parts))

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        """Schedule a start: at the end of this loop turn, or when the pace allows it."""
        wait = self._next_start - loop.time() if self._pace and self._queued < self._max_items else 0.0
        if wait > 0.0:
            if self._timer is None:
                self._timer = loop.call_later(wait, self._start)
            return
        self._starting = True
        loop.call_soon(self._start)

    def _start(self) -> None:
        """Send off as many batches as flights and pace allow."""
        self._starting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._queue and self._flying < self._flights:
            batch = self._take()
            if not batch:
                continue
            self._flying += 1
            self._next_start = loop.time() + self._pace
            task = loop.create_task(self._fly(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if self._pace and self._queued < self._max_items and not self._closed:
                break
        if self._queue and self._flying < self._flights and not self._closed:
            self._arm(loop)

    def _take(self) -> list[_Group[Item, Result]]:
        """Remove the next batch from the queue, leaving out groups that nobody waits for any more."""
        batch: list[_Group[Item, Result]] = []
        count = size = 0
        while self._queue:
            group = self._queue[0]
            length = len(group.items)
            gone = group.future.done()
            full = count + length > self._max_items or size + group.size > self._max_bytes
            if batch and full and not gone:
                break
            self._queue.popleft()
            self._queued -= length
            self._queued_bytes -= group.size
            if not gone:
                batch.append(group)
                count += length
                size += group.size
        return batch

    async def _fly(self, batch: list[_Group[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        items = list(batch[0].items) if len(batch) == 1 else [each for group in batch for each in group.items]
        self._batches += 1
        self._items += len(items)
        start = loop.time()
        try:
            results = await self._flush(items)
            _answer(batch, len(items), results, self.name)
        except Exception as error:
            self._failed += 1
            _fail(batch, error)
        except asyncio.CancelledError:
            for group in batch:
                group.future.cancel()
            raise
        finally:
            self._flush_seconds += 0.2 * (loop.time() - start - self._flush_seconds)
            self._flying -= 1
            if self._queue and not self._starting:
                # After this turn: callers answered just now may add to the next batch.
                self._arm(loop)


def _answer(batch: list[_Group[Item, Result]], count: int, results: Sequence[Result], name: str) -> None:
    if len(results) != count:
        raise RuntimeError(f"the flush of {name} answered {len(results)} results for {count} items")
    start = 0
    for group in batch:
        end = start + len(group.items)
        if not group.future.done():
            group.future.set_result(list(results[start:end]))
        start = end


def _fail(batch: list[_Group[Item, Result]], error: Exception) -> None:
    for group in batch:
        if not group.future.done():
            # One copy each: a shared exception would collect the traceback of every waiter.
            group.future.set_exception(error.copy() if isinstance(error, errors.MeshError) else error)


async def _join(parts: Sequence[asyncio.Future[list[Result]]]) -> list[Result]:
    return [result for answered in await asyncio.gather(*parts) for result in answered]
