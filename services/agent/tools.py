"""Tool calls: all of an instance's, multiplexed over one stream to toolhub."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import grpc

from services.agent.backoff import pause
from services.agent.lease import Lease
from services.agent.metrics import STREAMS_LOST
from workmesh.clock import Clock
from workmesh.errors import MeshError, from_rpc_error, unavailable
from workmesh.rpc.streams import StreamSender
from workmesh.toolhub.v1.tool_service_pb2 import InvokeToolsRequest, InvokeToolsResponse, ToolResult

if TYPE_CHECKING:
    from workmesh.toolhub.v1.tool_service_pb2_grpc import ToolServiceAsyncStub

_logger = logging.getLogger(__name__)

_UNAUTHENTICATED: Final = grpc.StatusCode.UNAUTHENTICATED.value[0]
_MANY_TOKENS: Final = 10_000
_CALL_OVERHEAD: Final = 512


class PendingCall:
    """A call whose result is awaited. `since` is the monotonic time from which patience counts."""

    __slots__ = (
        "arguments",
        "call_id",
        "deadline_micros",
        "future",
        "lease",
        "retried",
        "since",
        "step",
        "tool",
    )

    def __init__(
        self,
        call_id: int,
        lease: Lease,
        step: str,
        tool: str,
        arguments: bytes,
        deadline_micros: int,
        since: float,
    ) -> None:
        self.call_id = call_id
        self.lease = lease
        self.step = step
        self.tool = tool
        self.arguments = arguments
        self.deadline_micros = deadline_micros
        self.since = since
        self.retried = False
        self.future: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()


Put = PendingCall | int
"""A call to make, or the id of one whose result is no longer wanted."""


class ToolStream:
    """One InvokeTools stream, opened again whenever it ends.

    Calls that a broken stream leaves open are sent again over the next one: the step makes toolhub and the
    external systems recognise them. Toolhub away for longer than `patience` seconds fails them.
    """

    def __init__(self, stub: ToolServiceAsyncStub, clock: Clock, patience: float) -> None:
        self._stub = stub
        self._clock = clock
        self._patience = patience
        self._waiting: dict[int, PendingCall] = {}
        self._shown: set[str] = set()
        self._sender: StreamSender[Put, InvokeToolsRequest] | None = None
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def start(
        self, lease: Lease, step: str, tool: str, arguments: bytes, deadline_micros: int
    ) -> PendingCall:
        """Send a call; its future gets the result or MeshError. RESOURCE_EXHAUSTED when too many wait."""
        self._last_id += 1
        pending = PendingCall(
            self._last_id, lease, step, tool, arguments, deadline_micros, self._clock.monotonic()
        )
        if self._sender is not None:
            self._sender.put(pending)
        self._waiting[pending.call_id] = pending
        return pending

    def cancel(self, pending: PendingCall) -> None:
        """Give up a call, and tell toolhub where it may know of it."""
        if self._waiting.pop(pending.call_id, None) is None or self._sender is None:
            return
        try:
            self._sender.put(pending.call_id)
        except MeshError as error:
            # The stream is about to end, which cancels the call as well.
            _logger.debug("a call was not cancelled: %s", error, extra={"action": "tool_cancel_dropped"})

    async def run(self) -> None:
        """Keep a stream open until cancelled."""
        tries = 0
        while True:
            start = self._clock.monotonic()
            ended = await self._serve()
            now = self._clock.monotonic()
            tries = 0 if now - start > self._patience else tries + 1
            if self._waiting or tries <= 1:
                STREAMS_LOST.labels("toolhub").inc()
                _logger.info(
                    "the stream to toolhub ended: %s",
                    ended,
                    extra={"action": "tool_stream_lost", "waiting": len(self._waiting), "tries": tries},
                )
            self._fail_impatient(now, ended)
            await asyncio.sleep(pause(tries, random.random(), ended.retry_after))

    async def _serve(self) -> MeshError:
        """Serve one stream and return why it ended."""
        call = self._stub.InvokeTools()
        sender: StreamSender[Put, InvokeToolsRequest] = StreamSender(
            self._combine, name="tool calls", size_of=_size
        )
        self._shown.clear()
        for pending in self._waiting.values():
            sender.put(pending)
        self._sender = sender
        writer = asyncio.create_task(sender.run(call.write))
        try:
            while isinstance(response := await call.read(), InvokeToolsResponse):
                self._take(response.results)
            return unavailable("DRAINING", "toolhub ended the stream")
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        finally:
            self._sender = None
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def _combine(self, items: list[Put]) -> InvokeToolsRequest:
        request = InvokeToolsRequest()
        for item in items:
            if isinstance(item, int):
                request.cancelled_call_ids.append(item)
            elif item.call_id in self._waiting:
                self._add(request, item)
        return request

    def _add(self, request: InvokeToolsRequest, pending: PendingCall) -> None:
        lease = pending.lease
        token = lease.token
        token_id = token.token_id
        if token_id not in self._shown:
            if len(self._shown) >= _MANY_TOKENS:
                # Most have expired long ago; one that has not is shown again, which does no harm.
                self._shown.clear()
            self._shown.add(token_id)
            request.tokens.append(token)
        request.calls.add(
            call_id=pending.call_id,
            token_id=token_id,
            job_id=lease.offer.job_id,
            epoch=lease.ref.epoch,
            step=pending.step,
            tool=pending.tool,
            arguments=pending.arguments,
            deadline_micros=pending.deadline_micros,
            traceparent=lease.traceparent,
        )

    def _take(self, results: Sequence[ToolResult]) -> None:
        for result in results:
            pending = self._waiting.pop(result.call_id, None)
            if pending is None or pending.future.done():
                continue
            if result.error.code == _UNAUTHENTICATED and not pending.retried and self._sender is not None:
                # The token may have been renewed since, or forgotten there: once more with what holds now.
                pending.retried = True
                self._shown.discard(pending.lease.token.token_id)
                self._waiting[pending.call_id] = pending
                self._sender.put(pending)
            else:
                pending.future.set_result(result)

    def _fail_impatient(self, now: float, ended: MeshError) -> None:
        for pending in list(self._waiting.values()):
            if now - pending.since > self._patience:
                del self._waiting[pending.call_id]
                if not pending.future.done():
                    error = unavailable(
                        "DEPENDENCY_DOWN", f"toolhub does not answer: {ended.message}", retry_after=1.0
                    )
                    pending.future.set_exception(error)


def _size(item: Put) -> int:
    return 8 if isinstance(item, int) else len(item.arguments) + _CALL_OVERHEAD
