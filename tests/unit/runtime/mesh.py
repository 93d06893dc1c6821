"""A server of the mesh with one unary call and one stream, as the tests of servers and channels need it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings
from workmesh.scheduler.v1 import lease_service_pb2 as leases
from workmesh.scheduler.v1 import lease_service_pb2_grpc as leases_grpc
from workmesh.scheduler.v1 import scheduler_service_pb2 as scheduler
from workmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc

UNARY = "workmesh.scheduler.v1.SchedulerService"
STREAM = "workmesh.scheduler.v1.LeaseService"
UNARY_METHOD = f"/{UNARY}/GetQueueStats"
STREAM_METHOD = f"/{STREAM}/LeaseJobs"

Behavior = Callable[[Any], Awaitable[None]]


async def nothing(context: Any) -> None:
    """Behave well."""


class Scheduler(scheduler_grpc.SchedulerServiceServicer):
    """Answers after its behaviour, whose exceptions are the call's."""

    def __init__(self, behavior: Behavior) -> None:
        self._behavior = behavior

    async def GetQueueStats(
        self, request: scheduler.GetQueueStatsRequest, context: Any
    ) -> scheduler.GetQueueStatsResponse:
        await self._behavior(context)
        return scheduler.GetQueueStatsResponse()


class Leases(leases_grpc.LeaseServiceServicer):
    """Answers each message of the stream after its behaviour."""

    def __init__(self, behavior: Behavior) -> None:
        self._behavior = behavior

    async def LeaseJobs(
        self, request_iterator: AsyncIterator[leases.LeaseJobsRequest], context: Any
    ) -> AsyncIterator[leases.LeaseJobsResponse]:
        async for _ in request_iterator:
            await self._behavior(context)
            yield leases.LeaseJobsResponse()


class Peer:
    """A started server and a channel to it."""

    def __init__(self, server: MeshServer, port: int, channel: grpc.aio.Channel) -> None:
        self.server = server
        self.port = port
        self.channel = channel

    async def call(self, timeout: float = 5.0) -> None:
        await scheduler_grpc.SchedulerServiceStub(self.channel).GetQueueStats(
            scheduler.GetQueueStatsRequest(), timeout=timeout
        )

    async def stream(self, count: int) -> int:
        async def requests() -> AsyncIterator[leases.LeaseJobsRequest]:
            for _ in range(count):
                yield leases.LeaseJobsRequest()

        call = leases_grpc.LeaseServiceStub(self.channel).LeaseJobs(requests(), timeout=5.0)
        return len([response async for response in call])


@asynccontextmanager
async def peer(
    behavior: Behavior = nothing,
    *,
    serving: bool = True,
    grace: float = 1.0,
    port: int = 0,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> AsyncIterator[Peer]:
    """Start a server that behaves so, and stop it at the end."""
    server = MeshServer(ServerSettings("test", port=port, grace=grace), interceptors=interceptors)
    unary = Scheduler(behavior)  # type: ignore[abstract]  # the calls left out are not made
    server.add(scheduler_grpc.add_SchedulerServiceServicer_to_server, unary, UNARY)
    server.add(leases_grpc.add_LeaseServiceServicer_to_server, Leases(behavior), STREAM)
    bound = await server.start()
    server.set_serving(serving)
    channel = open_channel(f"127.0.0.1:{bound}")
    try:
        yield Peer(server, bound, channel)
    finally:
        await channel.close()
        await server.stop(0)
