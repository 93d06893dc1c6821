"""grpc.health.v1 for one process: all its services serve, or none does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_Response = health_pb2.HealthCheckResponse
SERVICE_NAME: Final = "grpc.health.v1.Health"


class Health(health_pb2_grpc.HealthServicer):
    """Answers checks for the empty name and for each service; not serving until `set` says so."""

    def __init__(self) -> None:
        self._names = {""}
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()

    def add(self, names: Iterable[str]) -> None:
        """Name services that are checked alike."""
        self._names.update(names)

    def set(self, serving: bool) -> None:
        """Change the answer and tell those who watch."""
        self._serving = serving
        self._wake()

    def close(self) -> None:
        """Say NOT_SERVING for good and end the watches, which would otherwise use up the grace of a stop."""
        self._closed = True
        self.set(False)

    async def Check(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return _Response(status=self._status(request.service))

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        told: int | None = None
        while True:
            # Read together, before the message is under way: what changes meanwhile is the next message.
            changed, closed = self._changed, self._closed
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Response(status=status)
            if closed:
                break
            await changed.wait()

    def _status(self, name: str) -> int:
        if name not in self._names:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._serving else _Response.NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
