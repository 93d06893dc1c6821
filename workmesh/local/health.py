"""Asks a gRPC server for its health."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2

CHECK_SECONDS = 1.0


async def probe_grpc(host: str, port: int) -> str | None:
    """Why the server is not SERVING; None when it is."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    writer.close()
    # A client of its own on a thread: the asyncio client binds itself to one loop a process at a time.
    return await asyncio.to_thread(_check, f"{host}:{port}")


def _check(address: str) -> str | None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = check(health_pb2.HealthCheckRequest(), timeout=CHECK_SECONDS)
        except grpc.RpcError as error:
            return f"health check: {error.code().name}: {error.details()}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"health: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"
