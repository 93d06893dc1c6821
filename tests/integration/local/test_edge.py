"""Envoy's rules, before a gateway that tells what reaches it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import jwt
import pytest
from grpc_health.v1 import health, health_pb2_grpc

from tests.stack import eventually, running
from workmesh.local import Stack, edge

SERVICE = "/workmesh.gateway.v1.JobService/"
HEALTH = "/grpc.health.v1.Health/Check"
READ, WRITE, STREAM = f"{SERVICE}GetJob", f"{SERVICE}SubmitJob", f"{SERVICE}WatchJob"
MESSAGE = 4 << 20


@dataclass
class Gateway(grpc.GenericRpcHandler):
    """Answers what it was sent, fails as often as it is told to, and keeps what it saw."""

    calls: Counter[str] = field(default_factory=Counter)
    metadata: dict[str, str] = field(default_factory=dict)
    remaining: float = 0.0
    failures: int = 0
    gate: asyncio.Event | None = None
    waiting: int = 0

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        if details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.answer) if details.method in (READ, WRITE) else None

    async def answer(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.metadata = {key: str(value) for key, value in context.invocation_metadata() or ()}
        self.remaining = context.time_remaining() or 0.0
        self.calls[self.metadata.get("x-test", "")] += 1
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "told to fail")
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        return request

    async def stream(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        for part in (b"first", b"second"):
            yield part
            await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Stack]:
    """Envoy alone."""
    with running(only=("envoy",)) as stack:
        yield stack


@pytest.fixture
async def gateway(proxy: Stack) -> AsyncIterator[Gateway]:
    """A gateway behind it."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 2 * MESSAGE)])
    handler = Gateway()
    server.add_generic_rpc_handlers((handler,))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    edge.write_endpoints(proxy.site, [port])
    async with grpc.aio.insecure_channel(proxy.edge_address) as channel:

        async def reached() -> bool:
            return await code_of(unary(channel, HEALTH)(b"", timeout=5)) == "OK"

        await eventually(reached)
    yield handler
    edge.write_endpoints(proxy.site, [])
    await server.stop(0)


@pytest.fixture
async def channel(proxy: Stack) -> AsyncIterator[grpc.aio.Channel]:
    """A client's channel to the edge."""
    options = [("grpc.max_receive_message_length", 2 * MESSAGE), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(proxy.edge_address, options=options) as opened:
        yield opened


def unary(channel: grpc.aio.Channel, method: str) -> Callable[..., Awaitable[bytes]]:
    """A method of bytes to bytes."""
    call: Callable[..., Awaitable[bytes]] = channel.unary_unary(method)
    return call


async def code_of(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


def bearer(stack: Stack, *roles: str, client: str = "acme") -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {stack.token(client, roles)}")]


async def test_the_token_alone_says_who_calls(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    forged = [("x-workmesh-client", "root"), ("x-workmesh-roles", "admin"), ("x-workmesh-actor", "root")]
    call = unary(channel, WRITE)
    assert await call(b"x", metadata=[*bearer(proxy, "operator"), *forged], timeout=5) == b"x"
    assert gateway.metadata["x-workmesh-client"] == "acme"
    of_operator = gateway.metadata["x-workmesh-roles"]
    await call(b"x", metadata=[*bearer(proxy), *forged], timeout=5)
    assert gateway.metadata.get("x-workmesh-roles", "") not in ("admin", of_operator)
    assert "x-workmesh-actor" not in gateway.metadata
    assert "authorization" not in gateway.metadata


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, "OK"),
        ({"iss": "somebody"}, "UNAUTHENTICATED"),
        ({"exp": None}, "UNAUTHENTICATED"),
        ({"exp": 1_000_000_000}, "UNAUTHENTICATED"),
        ({"aud": "others"}, "PERMISSION_DENIED"),
    ],
)
async def test_a_token_must_be_right_in_every_claim(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel, change: dict[str, Any], code: str
) -> None:
    token = proxy.token("acme")
    claims = {**jwt.decode(token, options={"verify_signature": False}), **change}
    changed = jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        (proxy.keys_directory / "clients.key.pem").read_bytes(),
        "ES256",
        headers={"kid": jwt.get_unverified_header(token)["kid"]},
    )
    metadata = [("authorization", f"Bearer {changed}")]
    assert await code_of(unary(channel, WRITE)(b"", metadata=metadata, timeout=5)) == code
    assert sum(gateway.calls.values()) == (1 if code == "OK" else 0)


async def test_only_health_and_reflection_go_without_a_token(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    async def code(method: str, metadata: list[tuple[str, str]]) -> str:
        return await code_of(unary(channel, method)(b"", metadata=metadata, timeout=5))

    assert await code(HEALTH, []) == "OK"
    for method in (READ, WRITE, STREAM):
        assert await code(method, []) == "UNAUTHENTICATED"
    for metadata in ([], bearer(proxy)):
        assert await code("/workmesh.ledger.v1.LedgerWriteService/CreateJobs", metadata) == "UNIMPLEMENTED"
        assert await code("/some.Other/Method", metadata) == "UNIMPLEMENTED"
    assert gateway.calls.total() == 0


async def test_a_read_is_repeated_and_a_write_is_not(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    for method, code, calls in ((READ, "OK", 2), (WRITE, "UNAVAILABLE", 1)):
        gateway.failures = 1
        metadata = [*bearer(proxy), ("x-test", method)]
        assert await code_of(unary(channel, method)(b"", metadata=metadata, timeout=5)) == code
        assert gateway.calls[method] == calls
        gateway.failures = 0


async def test_a_deadline_is_passed_on_and_capped(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    call = unary(channel, READ)
    await call(b"", metadata=bearer(proxy), timeout=5)
    assert 4 < gateway.remaining < 5
    await call(b"", metadata=bearer(proxy), timeout=3600)
    assert 0 < gateway.remaining <= 30


async def test_a_deadline_that_passes_is_called_so(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    gateway.gate = asyncio.Event()
    call = unary(channel, WRITE)(b"", metadata=bearer(proxy), timeout=0.3)
    assert await code_of(call) == "DEADLINE_EXCEEDED"
    gateway.gate.set()


async def test_a_stream_needs_no_deadline(proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel) -> None:
    watch: Any = channel.unary_stream(STREAM)
    call = watch(b"", metadata=bearer(proxy))
    assert [part async for part in call] == [b"first", b"second"]


async def test_more_than_a_thousand_calls_are_in_flight_at_once(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    gateway.gate = asyncio.Event()
    metadata = bearer(proxy)
    call = unary(channel, WRITE)
    calls = [asyncio.ensure_future(call(b"x", metadata=metadata, timeout=60)) for _ in range(1_100)]

    async def all_arrived() -> bool:
        ended = [call for call in calls if call.done()]
        assert ended == []
        return gateway.waiting == len(calls)

    await eventually(all_arrived, 50)
    gateway.gate.set()
    assert await asyncio.gather(*calls) == [b"x"] * len(calls)


async def test_a_gateway_that_is_merely_busy_is_not_cut_off(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    time.sleep(4)  # noqa: ASYNC251 - the gateway lives on this loop, and is to answer nothing
    assert await code_of(unary(channel, WRITE)(b"", metadata=bearer(proxy), timeout=5)) == "OK"


async def test_the_only_gateway_is_not_shut_out_for_saying_that_others_are_down(
    proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel
) -> None:
    call = unary(channel, WRITE)
    gateway.failures = 20
    for _ in range(20):
        assert await code_of(call(b"", metadata=bearer(proxy), timeout=5)) == "UNAVAILABLE"
    assert gateway.failures == 0
    assert await code_of(call(b"", metadata=bearer(proxy), timeout=5)) == "OK"


async def test_the_largest_message_passes(proxy: Stack, gateway: Gateway, channel: grpc.aio.Channel) -> None:
    message = bytes(MESSAGE)
    answer = await unary(channel, WRITE)(message, metadata=bearer(proxy), timeout=20)
    assert answer == message


async def test_without_a_gateway_the_edge_says_so(proxy: Stack, channel: grpc.aio.Channel) -> None:
    edge.write_endpoints(proxy.site, [])
    call = unary(channel, WRITE)(b"", metadata=bearer(proxy), timeout=5)
    assert await code_of(call) == "UNAVAILABLE"
