"""ToolService: validate, call, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, NoReturn, cast

import grpc

from services.toolhub.admission import Admission, to_call
from services.toolhub.calls import Calls
from services.toolhub.catalogue import Catalogue, Target
from services.toolhub.integrations import Effect
from services.toolhub.metrics import refused
from services.toolhub.streams import CallStream
from workmesh import errors, payload
from workmesh.clock import Clock
from workmesh.errors import MeshError
from workmesh.toolhub.v1 import tool_service_pb2 as pb
from workmesh.toolhub.v1.tool_service_pb2_grpc import ToolServiceServicer

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["ToolService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]

_EFFECTS: Final = {
    Effect.READ: pb.EFFECT_CLASS_READ,
    Effect.IDEMPOTENT: pb.EFFECT_CLASS_IDEMPOTENT,
    Effect.UNSAFE: pb.EFFECT_CLASS_UNSAFE,
}


class ToolService(ToolServiceServicer):
    """The tools of a catalogue, for holders of job tokens."""

    def __init__(
        self, catalogue: Catalogue, admission: Admission, calls: Calls, clock: Clock, *, max_calls: int
    ) -> None:
        self._catalogue = catalogue
        self._admission = admission
        self._calls = calls
        self._clock = clock
        self._max_calls = max_calls
        self._streams: set[CallStream] = set()
        self._draining = False

    async def ListTools(self, request: pb.ListToolsRequest, context: Context) -> pb.ListToolsResponse:
        tools = [_to_tool(target) for target in self._catalogue.targets(request.integration)]
        return pb.ListToolsResponse(tools=tools)

    async def InvokeTool(self, request: pb.InvokeToolRequest, context: Context) -> pb.InvokeToolResponse:
        arrival = self._clock.monotonic()
        try:
            self._refuse_draining()
            self._admission.show(request.token)
            if request.call.token_id != request.token.token_id:
                raise errors.unauthenticated("the call names another token than the one it comes with")
            grant, target = self._admission.permit(request.call)
        except MeshError as error:
            refused(error.reason)
            raise
        call = to_call(request.call, grant, target, self._deadline(context))
        flight, task = self._calls.start(call)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            flight.abandon()
            raise
        if task.cancelled():
            raise errors.unavailable("DRAINING", "the call was given up")
        ended = task.result()
        if isinstance(ended, MeshError):
            await _abort(context, ended)
        result = pb.ToolResult(
            result=ended,
            request_count=flight.request_count,
            duration_micros=round((self._clock.monotonic() - arrival) * 1e6),
        )
        return pb.InvokeToolResponse(result=result)

    async def InvokeTools(
        self, request_iterator: AsyncIterator[pb.InvokeToolsRequest], context: Context
    ) -> AsyncIterator[pb.InvokeToolsResponse]:
        self._refuse_draining()
        stream = CallStream(self._admission, self._calls, self._clock, max_calls=self._max_calls)
        self._streams.add(stream)
        serving = asyncio.get_running_loop().create_task(stream.serve(request_iterator))
        try:
            async for response in stream.responses():
                yield response
            await serving
        finally:
            self._streams.discard(stream)
            stream.abandon()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def drain(self) -> None:
        """End the streams, then return when every call under way has come to its end."""
        self._draining = True
        for stream in self._streams:
            stream.drain()
        await self._calls.drain()

    def _refuse_draining(self) -> None:
        if self._draining:
            raise errors.unavailable("DRAINING", "the process is draining", retry_after=0.1)

    def _deadline(self, context: Context) -> float | None:
        # None without a deadline, whatever the stubs say.
        remaining = cast("float | None", context.time_remaining())
        return None if remaining is None else self._clock.time() + remaining


async def _abort(context: Context, error: MeshError) -> NoReturn:
    """End a call that was made; gRPC's own retries are told to leave it, for it had its retries here."""
    if error.code is not grpc.StatusCode.UNAVAILABLE:
        raise error
    details = errors.to_status(error).SerializeToString()
    trailers = ((errors.STATUS_DETAILS_KEY, details), ("grpc-retry-pushback-ms", "-1"))
    await context.abort(error.code, error.message, trailers)


def _to_tool(target: Target) -> pb.Tool:
    operation = target.operation
    tool = pb.Tool(name=target.name, description=operation.description, effect=_EFFECTS[operation.effect])
    if operation.input is not None:
        payload.json_to_struct(operation.input.json, tool.input_schema)
    if operation.output is not None:
        payload.json_to_struct(operation.output.json, tool.output_schema)
    return tool
