from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.unit.runtime.mesh import peer
from workmesh import errors
from workmesh.errors import MeshError
from workmesh.rpc.client import open_channel, target_of
from workmesh.scheduler.v1 import scheduler_service_pb2 as scheduler
from workmesh.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("127.0.0.1:7701", "ipv4:127.0.0.1:7701"),
        ("localhost:1", "ipv4:127.0.0.1:1"),
        ("127.0.0.1:1, 10.0.0.2:2,", "ipv4:127.0.0.1:1,10.0.0.2:2"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
        ("ledger.mesh.svc:7701", "dns:///ledger.mesh.svc:7701"),
    ],
)
def test_an_address_list_becomes_a_target(addresses: str, target: str) -> None:
    assert target_of(addresses) == target


@pytest.mark.parametrize(
    "addresses",
    ["", "host", "host:", ":1", "host:0", "host:65536", "host:²", "a.b:1,c.d:1", "[::1]:1,1.2.3.4:1"],
)
def test_what_is_no_address_list_is_refused(addresses: str) -> None:
    with pytest.raises(ValueError, match=r"address|host:port"):
        target_of(addresses)


class Failing:
    """Raises each error once, then behaves."""

    def __init__(self, *failures: MeshError) -> None:
        self.failures = list(failures)
        self.calls = 0

    async def __call__(self, context: Any) -> None:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)


async def test_unavailable_is_repeated_until_it_works() -> None:
    behavior = Failing(
        errors.unavailable("DRAINING", "x"), errors.unavailable("DRAINING", "x", retry_after=0.01)
    )
    async with peer(behavior) as mesh:
        await mesh.call()
    assert behavior.calls == 3


async def test_repeating_ends_after_four_tries() -> None:
    behavior = Failing(*[errors.unavailable("DRAINING", "x")] * 10)
    async with peer(behavior) as mesh:
        with pytest.raises(grpc.aio.AioRpcError):
            await mesh.call()
    assert behavior.calls == 4


@pytest.mark.parametrize(
    "error",
    [
        errors.unavailable("CIRCUIT_OPEN", "open for long", retry_after=30.0),
        errors.aborted("STALE_EPOCH", "x"),
        errors.resource_exhausted("QUEUE_FULL", "x", retry_after=0.01),
        errors.deadline_exceeded("x"),
        errors.internal(),
    ],
)
async def test_nothing_else_is_repeated_nor_what_asks_for_a_long_wait(error: MeshError) -> None:
    behavior = Failing(error)
    async with peer(behavior) as mesh:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await mesh.call()
    assert failed.value.code() is error.code
    assert behavior.calls == 1


async def test_calls_go_round_robin_and_past_a_server_that_is_gone() -> None:
    first, second = Failing(), Failing()
    async with peer(first) as one, peer(second) as two:
        channel = open_channel(f"127.0.0.1:{one.port},127.0.0.1:{two.port}")
        stub = scheduler_grpc.SchedulerServiceStub(channel)

        async def call() -> None:
            await stub.GetQueueStats(scheduler.GetQueueStatsRequest(), timeout=5)

        while not (first.calls and second.calls):
            await call()
        before = first.calls, second.calls
        for _ in range(20):
            await call()
        assert (first.calls - before[0], second.calls - before[1]) == (10, 10)
        await one.server.stop(0)
        for _ in range(10):
            await call()
        assert second.calls - before[1] >= 20
        await channel.close()
