"""One integration at work: its driver behind bulkhead, retries and retry budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.toolhub.arguments import Request
from services.toolhub.budget import LEAST_SECONDS, Budget, open_budget
from services.toolhub.bulkhead import Bulkhead
from services.toolhub.drivers import Driver
from services.toolhub.flight import Flight
from services.toolhub.integrations import Integration, Operation
from services.toolhub.metrics import Meter
from services.toolhub.outcomes import Failure, Success, judge, to_error
from services.toolhub.retry import RetryBudget, backoff, pause_before_retry
from workmesh import errors
from workmesh.clock import Clock


class Link:
    """The way to one external system, with everything that bounds its use.

    The retry budget belongs to the integration: one that fails uses up its own and nobody else's, and all of
    them together stay within the same share of the process's calls.
    """

    def __init__(
        self, integration: Integration, driver: Driver, clock: Clock, draw: Callable[[], float]
    ) -> None:
        self.integration = integration
        self.bulkhead = Bulkhead(integration.name, integration.bounds, clock)
        self._driver = driver
        self._clock = clock
        self._draw = draw
        self._retries = RetryBudget(clock.monotonic())
        self._meters = {name: Meter(integration.name, name) for name in integration.operations}

    def meter(self, operation: Operation) -> Meter:
        """Return what counts the calls of an operation."""
        return self._meters[operation.name]

    def open_budget(self, deadline: float | None) -> Budget:
        """Return the budget of a call that begins now, for a caller who waits until `deadline` (epoch).

        DEADLINE_EXCEEDED when too little is left.
        """
        seconds = None if deadline is None else deadline - self._clock.time()
        return open_budget(self.integration.timeouts, seconds, self._clock.monotonic())

    async def call(
        self, operation: Operation, request: Request, budget: Budget, flight: Flight
    ) -> Success | Failure:
        """Wait for a place in the bulkhead and send the request; raises what the bulkhead raises."""
        async with self.bulkhead.slot(budget):
            return await self.send(operation, request, budget, flight)

    async def send(
        self, operation: Operation, request: Request, budget: Budget, flight: Flight
    ) -> Success | Failure:
        """Send the request until it succeeds, may not be repeated, or the budget is spent."""
        self._retries.call_begins()
        tries = 0
        while True:
            tries += 1
            remaining = budget.remaining(self._clock.monotonic())
            reply = await self._driver.send(request, flight, per_try=budget.per_try, remaining=remaining)
            outcome = judge(reply, operation, self.integration.secret)
            if isinstance(outcome, Success):
                return outcome
            pause = self._pause(operation, outcome, tries, budget)
            if pause is None or flight.abandoned:
                return outcome
            self.meter(operation).retried()
            await asyncio.sleep(pause)

    def error(self, operation: Operation, failure: Failure, budget: Budget) -> errors.MeshError:
        """Return the error of a call that failed for good."""
        if failure.timed_out and budget.caller_bound:
            left = budget.remaining(self._clock.monotonic())
            if left < LEAST_SECONDS:
                return errors.deadline_exceeded(
                    f"{self.integration.name}.{operation.name}: the caller's deadline passed"
                )
        retry_after = failure.retry_after
        if retry_after is None:
            retry_after = backoff(self.integration.retry, self.integration.retry.max_tries, self._draw())
        return to_error(failure, self.integration, operation, retry_after)

    async def close(self) -> None:
        """Close the connections."""
        await self._driver.close()

    def _pause(self, operation: Operation, failure: Failure, tries: int, budget: Budget) -> float | None:
        pause = pause_before_retry(self.integration.retry, operation.effect, failure, tries, self._draw())
        now = self._clock.monotonic()
        if pause is None or not budget.allows(now, pause) or not self._retries.spend(now):
            return None
        return pause
