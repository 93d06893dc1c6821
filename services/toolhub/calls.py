"""Tool calls under way, each from its admission to its end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from services.toolhub.arguments import build_request, check_arguments
from services.toolhub.call import Call
from services.toolhub.effects import Effects
from services.toolhub.flight import Flight
from services.toolhub.integrations import Effect
from services.toolhub.outcomes import Success
from workmesh import errors
from workmesh.clock import Clock
from workmesh.errors import MeshError
from workmesh.telemetry import Telemetry

_logger = logging.getLogger(__name__)


class Calls:
    """Makes calls, each in a task of its own that outlives its caller where something is at stake."""

    def __init__(self, effects: Effects, clock: Clock, telemetry: Telemetry) -> None:
        self._effects = effects
        self._clock = clock
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[bytes | MeshError]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, call: Call) -> tuple[Flight, asyncio.Task[bytes | MeshError]]:
        """Begin a call; its task returns JSON bytes, or why there are none, and raises nothing."""
        flight = Flight()
        task = asyncio.get_running_loop().create_task(self._run(call, flight))
        flight.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight, task

    async def drain(self) -> None:
        """Return when no call is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, call: Call, flight: Flight) -> bytes | MeshError:
        start = self._clock.monotonic()
        meter = call.target.link.meter(call.target.operation)
        attributes = {"tool": call.target.name, "job_id": call.job_id}
        try:
            with self._telemetry.span(f"tool {call.target.name}", call.traceparent, attributes):
                result = await self._invoke(call, flight)
        except Exception as error:
            failure = _known(error, call)
            meter.failed(failure.reason, self._clock.monotonic() - start)
            return failure
        except asyncio.CancelledError:
            meter.failed("CANCELLED", self._clock.monotonic() - start)
            raise
        meter.succeeded(self._clock.monotonic() - start)
        return result

    async def _invoke(self, call: Call, flight: Flight) -> bytes:
        arguments = check_arguments(call.target.operation, call.arguments)
        if call.target.operation.effect is Effect.UNSAFE:
            return await self._effects.perform(call, arguments, flight)
        if call.target.ready is not None:
            return call.target.ready
        return await self._ask(call, arguments, flight)

    async def _ask(self, call: Call, arguments: dict[str, Any], flight: Flight) -> bytes:
        link, operation = call.target.link, call.target.operation
        budget = link.open_budget(call.deadline)
        request = build_request(operation, arguments, call.idempotency_key)
        outcome = await link.call(operation, request, budget, flight)
        if isinstance(outcome, Success):
            return outcome.result
        raise link.error(operation, outcome, budget)


def _known(error: Exception, call: Call) -> MeshError:
    """Return what a caller is told of a failed call; a fault of ours is logged and not described."""
    if isinstance(error, MeshError):
        return error
    _logger.error(
        "a tool call failed unexpectedly",
        exc_info=error,
        extra={"action": "tool_call_failed", "tool": call.target.name, "job_id": call.job_id},
    )
    return errors.internal()
