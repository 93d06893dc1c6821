"""One InvokeTools stream: many calls at once, their results in the order they become ready."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator

from services.toolhub.admission import Admission, to_call
from services.toolhub.arguments import check_arguments
from services.toolhub.call import Call
from services.toolhub.calls import Calls
from services.toolhub.catalogue import Target
from services.toolhub.flight import Flight
from services.toolhub.metrics import refused
from workmesh import errors
from workmesh.clock import Clock
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.errors import MeshError
from workmesh.rpc.streams import StreamSender
from workmesh.toolhub.v1.tool_service_pb2 import (
    InvokeToolsRequest,
    InvokeToolsResponse,
    ToolCall,
    ToolResult,
)

_logger = logging.getLogger(__name__)


def _combine(results: list[ToolResult]) -> InvokeToolsResponse:
    return InvokeToolsResponse(results=results)


def _size(result: ToolResult) -> int:
    return len(result.result) + 512


class CallStream:
    """Serves one stream, with at most `max_calls` calls under way.

    A peer that does not read its results is not read from either.
    """

    def __init__(self, admission: Admission, calls: Calls, clock: Clock, *, max_calls: int) -> None:
        self._admission = admission
        self._calls = calls
        self._clock = clock
        self._max_calls = max_calls
        self._room = 4 * max_calls
        self._sender: StreamSender[ToolResult, InvokeToolsResponse] = StreamSender(
            _combine, name="tool results", size_of=_size, max_queued=self._room
        )
        self._flights: dict[int, Flight] = {}
        self._followers: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[None] | None = None

    def responses(self) -> AsyncIterator[InvokeToolsResponse]:
        """Yield the results until the stream has been served."""
        return self._sender.messages()

    async def serve(self, requests: AsyncIterator[InvokeToolsRequest]) -> None:
        """Take calls until the peer ends the stream or `drain` is called, then see them all to their end.

        INVALID_ARGUMENT when the peer breaks the protocol.
        """
        self._reading = asyncio.get_running_loop().create_task(self._read(requests))
        try:
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                self._reading.result()
            while self._followers:
                await asyncio.wait(self._followers)
        finally:
            self._sender.close()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def drain(self) -> None:
        """Take no further calls."""
        if self._reading is not None:
            self._reading.cancel()

    def abandon(self) -> None:
        """Give up what nobody will hear of; what was sent goes on to a known end."""
        for flight in list(self._flights.values()):
            flight.abandon()
        self._flights.clear()
        for follower in self._followers:
            follower.cancel()

    async def _read(self, requests: AsyncIterator[InvokeToolsRequest]) -> None:
        async for request in requests:
            arrival = self._clock.monotonic()
            for token in request.tokens:
                self._show(token)
            for call_id in request.cancelled_call_ids:
                self._cancel(call_id)
            answered: Counter[Target] = Counter()
            for asked in request.calls:
                result = self._begin(asked, arrival, answered)
                if result is None:
                    continue
                if len(self._sender) < self._room:
                    self._sender.put(result)
                else:
                    await self._sender.send(result)
            self._count(answered, arrival)

    def _show(self, token: JobToken) -> None:
        try:
            self._admission.show(token)
        except MeshError as error:
            # Its calls will be refused one by one; the others on this stream are not concerned.
            _logger.warning(
                "a token was refused: %s",
                error.message,
                extra={"action": "token_refused", "token_id": token.token_id},
            )

    def _cancel(self, call_id: int) -> None:
        flight = self._flights.pop(call_id, None)
        if flight is not None:
            flight.abandon()

    def _begin(self, asked: ToolCall, arrival: float, answered: Counter[Target]) -> ToolResult | None:
        """Start a call; its result where there is nothing to wait for."""
        try:
            grant, target = self._admission.permit(asked)
        except MeshError as error:
            refused(error.reason)
            return self._failed(asked.call_id, error, arrival)
        if target.ready is not None:
            return self._answer(asked, target, target.ready, arrival, answered)
        if asked.call_id in self._flights:
            raise errors.invalid_argument(
                f"call_id {asked.call_id} is in use",
                errors.Violation("calls.call_id", "names a call that is under way on this stream"),
            )
        if len(self._followers) >= self._max_calls:
            full = errors.resource_exhausted("QUEUE_FULL", "too many calls on one stream", retry_after=0.1)
            target.link.meter(target.operation).failed(full.reason, 0.0)
            return self._failed(asked.call_id, full, arrival)
        self._follow(asked.call_id, to_call(asked, grant, target), arrival)
        return None

    def _answer(
        self, asked: ToolCall, target: Target, ready: bytes, arrival: float, answered: Counter[Target]
    ) -> ToolResult:
        try:
            check_arguments(target.operation, asked.arguments)
        except MeshError as error:
            target.link.meter(target.operation).failed(error.reason, self._clock.monotonic() - arrival)
            return self._failed(asked.call_id, error, arrival)
        answered[target] += 1
        return ToolResult(call_id=asked.call_id, result=ready)

    def _follow(self, call_id: int, call: Call, arrival: float) -> None:
        flight, task = self._calls.start(call)
        self._flights[call_id] = flight
        follower = asyncio.get_running_loop().create_task(self._deliver(call_id, flight, task, arrival))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)

    async def _deliver(
        self, call_id: int, flight: Flight, task: asyncio.Task[bytes | MeshError], arrival: float
    ) -> None:
        await asyncio.wait({task})
        if self._flights.get(call_id) is flight:
            del self._flights[call_id]
        if flight.abandoned or task.cancelled():
            return
        ended = task.result()
        if isinstance(ended, MeshError):
            result = self._failed(call_id, ended, arrival, flight.request_count)
        else:
            seconds = self._clock.monotonic() - arrival
            result = ToolResult(
                call_id=call_id,
                result=ended,
                request_count=flight.request_count,
                duration_micros=_micros(seconds),
            )
        await self._sender.send(result)

    def _failed(self, call_id: int, error: MeshError, arrival: float, requests: int = 0) -> ToolResult:
        return ToolResult(
            call_id=call_id,
            error=errors.to_status(error),
            request_count=requests,
            duration_micros=_micros(self._clock.monotonic() - arrival),
        )

    def _count(self, answered: Counter[Target], arrival: float) -> None:
        """Count the calls of a message that were answered at once together: it costs as much as each."""
        seconds = self._clock.monotonic() - arrival
        for target, count in answered.items():
            target.link.meter(target.operation).succeeded(seconds, count)


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
