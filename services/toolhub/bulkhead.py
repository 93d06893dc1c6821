"""Bounds on the calls to one integration, so that a slow one costs no more than its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.toolhub.budget import Budget
from services.toolhub.integrations import Bounds
from workmesh import errors
from workmesh.clock import Clock

_LEAST_RETRY_AFTER = 0.05
_MOST_RETRY_AFTER = 30.0


class Bulkhead:
    """Lets a bounded number of calls run and a bounded number wait, first come first served."""

    def __init__(self, name: str, bounds: Bounds, clock: Clock) -> None:
        self._name = name
        self._bounds = bounds
        self._clock = clock
        self._running = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._held_seconds = 0.0

    @property
    def running(self) -> int:
        """Calls under way."""
        return self._running

    @property
    def waiting(self) -> int:
        """Calls that wait for one of them to end."""
        return len(self._waiters)

    @asynccontextmanager
    async def slot(self, budget: Budget) -> AsyncIterator[None]:
        """Hold one of the running places.

        RESOURCE_EXHAUSTED QUEUE_FULL when too many wait already or the integration's budget ends in the
        queue, DEADLINE_EXCEEDED when the caller's deadline does.
        """
        if self._running < self._bounds.running and not self._waiters:
            self._running += 1
        else:
            await self._wait(budget)
        start = self._clock.monotonic()
        try:
            yield
        finally:
            self._held_seconds += 0.1 * (self._clock.monotonic() - start - self._held_seconds)
            self._release()

    async def _wait(self, budget: Budget) -> None:
        if len(self._waiters) >= self._bounds.waiting:
            raise self._full("too many calls wait already")
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, budget.remaining(self._clock.monotonic()))):
                await waiter
        except BaseException as error:
            self._give_up(waiter)
            if not isinstance(error, TimeoutError):
                raise
            if budget.caller_bound:
                raise errors.deadline_exceeded(
                    f"the caller's deadline passed while the call waited for {self._name}"
                ) from None
            raise self._full("the call's budget passed in the queue") from None

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        if waiter.done() and not waiter.cancelled():
            # The place was handed over just as the wait ended: it goes to the next one.
            self._release()
        elif waiter in self._waiters:
            self._waiters.remove(waiter)

    def _release(self) -> None:
        """Hand the place to the longest waiter, or free it."""
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._running -= 1

    def _full(self, why: str) -> errors.MeshError:
        turns = (len(self._waiters) + 1) / self._bounds.running
        wait = min(_MOST_RETRY_AFTER, max(_LEAST_RETRY_AFTER, turns * self._held_seconds))
        return errors.resource_exhausted(
            "QUEUE_FULL", f"{self._name}: {why}", retry_after=wait, integration=self._name
        )
