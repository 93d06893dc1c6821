"""What stands between gRPC and every handler: deadline, parsing, and errors turned into statuses."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias, cast

import grpc
from google.rpc import status_pb2

from workmesh import errors, metrics
from workmesh.errors import MeshError

_logger = logging.getLogger(__name__)

LEAST_SECONDS: Final = 0.005
"""A call with less time left is refused: its answer would come too late to be of use."""

# gRPC refuses trailers beyond 16 KiB and drops the whole status; the rest of the trailers needs room too.
_MAX_STATUS_BYTES: Final = 6 << 10
_MAX_MESSAGE_CHARACTERS: Final = 1_000

_PASSED_ON: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Gate:
    """Whether the process answers calls yet: shut until its dependencies were ready once."""

    def __init__(self) -> None:
        self.open = False


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each handler once, so that a call pays for one layer and not for one per concern.

    A request that cannot be parsed is INVALID_ARGUMENT, a deadline that is too near DEADLINE_EXCEEDED, a
    MeshError becomes its status, and whatever else is raised INTERNAL with no detail for the caller and a
    stack in the log.
    """

    def __init__(self, service: str, gate: Gate) -> None:
        self._gate = gate
        self._calls = metrics.counter(
            f"workmesh_{service}_calls_total", "Calls answered.", ("method", "code")
        )
        self._seconds = metrics.histogram(
            f"workmesh_{service}_call_duration_seconds",
            "Time to answer a call that is no stream.",
            ("method",),
        )
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        method = handler_call_details.method
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:
            return self._refusal(method, error)
        if handler is None:
            return None
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = (handler, self._wrap(method, handler))
            self._wrapped[method] = known
        return known[1]

    def _refusal(self, method: str, error: Exception) -> Handler:
        """Return a handler for calls of every kind that answers with what an interceptor raised."""

        async def refuse(requests: AsyncIterator[bytes], context: Context) -> None:
            await abort(context, _translate(method, error))

        # The stubs know generators only; gRPC takes coroutines that write as well.
        return grpc.stream_stream_rpc_method_handler(cast(Any, refuse), None, None)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        call = _Call(method, handler, self._gate if method.startswith("/workmesh.") else None, self._calls)
        if handler.unary_unary is not None:
            seconds = self._seconds.labels(method)
            behavior = call.unary(handler.unary_unary, seconds.observe)
            return grpc.unary_unary_rpc_method_handler(behavior, None, handler.response_serializer)
        if handler.stream_unary is not None:
            behavior = call.unary(handler.stream_unary, None)
            return grpc.stream_unary_rpc_method_handler(behavior, None, handler.response_serializer)
        if handler.unary_stream is not None:
            stream = call.stream(handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(stream, None, handler.response_serializer)
        stream = call.stream(handler.stream_stream)
        return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)


class _Call:
    """The wrapping of one method."""

    def __init__(self, method: str, handler: Handler, gate: Gate | None, calls: metrics.Counter) -> None:
        self._method = method
        self._deserialize = handler.request_deserializer
        self._request_streaming = handler.request_streaming
        self._gate = gate
        self._calls = calls
        self._answered = calls.labels(method, grpc.StatusCode.OK.name)

    def unary(self, behavior: Any, observe: Callable[[float], None] | None) -> Any:
        async def answer(raw: Any, context: Context) -> Any:
            start = time.perf_counter()
            try:
                self._admit(context)
                response = await behavior(self._request(raw), context)
            except Exception as error:
                await self._fail(context, error)
            else:
                self._answered.inc()
                if observe is not None:
                    observe(time.perf_counter() - start)
                return response

        return answer

    def stream(self, behavior: Any) -> Any:
        if not inspect.isasyncgenfunction(behavior):
            return self.unary(behavior, None)

        async def answer(raw: Any, context: Context) -> AsyncIterator[Any]:
            try:
                self._admit(context)
                async with aclosing(behavior(self._request(raw), context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                await self._fail(context, error)
            else:
                self._answered.inc()

        return answer

    def _admit(self, context: Context) -> None:
        if self._gate is not None and not self._gate.open:
            raise errors.unavailable("DEPENDENCY_DOWN", "the service is not ready yet", retry_after=0.2)
        # None without a deadline, whatever the stubs say.
        remaining = cast("float | None", context.time_remaining())
        if remaining is not None and remaining < LEAST_SECONDS:
            raise errors.deadline_exceeded("too little of the deadline is left to begin")

    def _request(self, raw: Any) -> Any:
        if self._request_streaming:
            return self._requests(raw)
        return self._parse(raw)

    async def _requests(self, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for each in raw:
            yield self._parse(each)

    def _parse(self, raw: bytes) -> Any:
        if self._deserialize is None:
            return raw
        try:
            return self._deserialize(raw)
        except Exception as error:
            raise errors.invalid_argument(
                "the request is not a message of the method's type",
                errors.Violation("request", "cannot be parsed: malformed, not UTF-8 or nested too deep"),
            ) from error

    async def _fail(self, context: Context, error: Exception) -> None:
        if isinstance(error, grpc.aio.AbortError):
            self._calls.labels(self._method, context.code().name).inc()
            raise error
        failure = _translate(self._method, error)
        self._calls.labels(self._method, failure.code.name).inc()
        await abort(context, failure)


def _translate(method: str, error: Exception) -> MeshError:
    if isinstance(error, MeshError):
        return error
    if isinstance(error, TimeoutError):
        return errors.deadline_exceeded("the call took longer than it may")
    if isinstance(error, grpc.aio.AioRpcError) and error.code() in _PASSED_ON:
        return errors.from_rpc_error(error)
    _logger.error(
        "a call failed unexpectedly", exc_info=error, extra={"action": "call_failed", "method": method}
    )
    return errors.internal()


async def abort(context: Context, error: MeshError) -> None:
    """End a call with the error's status and details in its trailers."""
    status = errors.to_status(error)
    details = _fit(status).SerializeToString()
    trailers: list[tuple[str, str | bytes]] = [(errors.STATUS_DETAILS_KEY, details)]
    if error.code is grpc.StatusCode.UNAVAILABLE and error.retry_after is not None:
        # Tells gRPC's own retries to wait as long, or to leave it to the caller when that is long (gRFC A6).
        wait = round(error.retry_after * 1_000)
        trailers.append(("grpc-retry-pushback-ms", str(wait if wait <= 1_000 else -1)))
    await context.abort(error.code, status.message, tuple(trailers))


def _fit(status: status_pb2.Status) -> status_pb2.Status:
    """Cut what does not fit into trailers, the most voluminous details first; ErrorInfo stays."""
    if len(status.message) > _MAX_MESSAGE_CHARACTERS:
        status.message = status.message[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
    while status.ByteSize() > _MAX_STATUS_BYTES and len(status.details) > 1:
        largest = max(range(1, len(status.details)), key=lambda index: status.details[index].ByteSize())
        del status.details[largest]
    return status
