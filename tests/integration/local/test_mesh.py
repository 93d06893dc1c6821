"""The whole mesh under its supervisor. Tests leave it as whole as they found it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

import grpc
import pytest

from tests.stack import eventually
from workmesh.local import Happening, Stack, StackError
from workmesh.local.services import TABLE

MORTALS = ("ledger", "scheduler", "toolhub", "gateway", "envoy", "agent-1")
CHECK = "/grpc.health.v1.Health/Check"


async def edge_health(stack: Stack) -> grpc.StatusCode:
    """How the health of the gateways looks through Envoy."""
    async with grpc.aio.insecure_channel(stack.edge_address) as channel:
        check: Callable[..., Awaitable[bytes]] = channel.unary_unary(CHECK)
        try:
            await check(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
    return grpc.StatusCode.OK


async def edge_answers(stack: Stack) -> None:
    """Wait until the edge reaches a gateway."""

    async def answers() -> bool:
        return await edge_health(stack) is grpc.StatusCode.OK

    await eventually(answers)


async def test_every_process_of_the_table_runs_and_the_edge_answers(stack: Stack) -> None:
    services = {name.partition("-")[0] for name in stack.names}
    assert services == {
        "postgres",
        "nats",
        "valkey",
        "ledger",
        "toolhub",
        "scheduler",
        "gateway",
        "envoy",
        "agent",
    }
    await stack.wait_ready()
    assert set(stack.pids()) == set(stack.names)
    await edge_answers(stack)


async def test_a_service_starts_once_what_it_needs_is_ready(stack: Stack) -> None:
    first: dict[tuple[str, Happening], float] = {}
    for event in stack.events():
        first.setdefault((event.name, event.kind), event.time)
    pairs = [(each.name, need) for each in TABLE for need in each.needs if each.name in stack.names]
    assert ("scheduler", "nats") in pairs
    for name, need in pairs:
        assert first[name, Happening.STARTED] >= first[need, Happening.READY]


@pytest.mark.parametrize("name", MORTALS)
async def test_a_killed_service_comes_back(stack: Stack, name: str) -> None:
    killed = stack.kill(name)
    await stack.wait_ready(name)
    assert stack.pid(name) not in (0, killed)
    assert [event.pid for event in stack.events(Happening.EXITED, name)][-1] == killed
    await stack.wait_ready()


async def test_the_edge_follows_the_gateways_that_are_ready(stack: Stack) -> None:
    await edge_answers(stack)
    stack.kill("gateway")
    assert await edge_health(stack) is grpc.StatusCode.UNAVAILABLE
    await stack.wait_ready("gateway")
    await edge_answers(stack)


async def test_a_second_gateway_joins_and_leaves_without_an_error(stack: Stack) -> None:
    await edge_answers(stack)
    stop = asyncio.Event()

    async def ask() -> list[grpc.StatusCode]:
        seen = []
        while not stop.is_set():
            seen.append(await edge_health(stack))
        return seen

    asking = asyncio.create_task(ask())
    await stack.scale("gateway", 2)
    assert "gateway-2" in stack.names
    await stack.scale("gateway", 1)
    stop.set()
    codes = await asking
    assert len(codes) > 3
    assert set(codes) == {grpc.StatusCode.OK}
    assert "gateway-2" not in stack.names


async def test_agents_are_scaled_up_and_down(stack: Stack) -> None:
    before = [name for name in stack.names if name.startswith("agent")]
    await stack.scale("agent", len(before) + 1)
    added = f"agent-{len(before) + 1}"
    assert stack.pid(added)
    assert stack.environment(added)["WORKMESH_AGENT_INSTANCE"] == added
    await stack.scale("agent", len(before))
    assert added not in stack.names
    # Told to, not killed: it drained and left with 0.
    assert [event.detail for event in stack.events(Happening.STOPPED, added)] == ["exited with 0"]


async def test_what_others_call_by_address_cannot_be_scaled(stack: Stack) -> None:
    with pytest.raises(StackError, match="only agent and gateway"):
        await stack.scale("ledger", 2)
    with pytest.raises(StackError, match="no such process: mysql"):
        stack.kill("mysql")


async def test_a_service_ends_politely_on_sigterm_and_is_started_again(stack: Stack) -> None:
    ended = stack.kill("toolhub", signal.SIGTERM)
    await stack.wait_ready("toolhub")
    exits = {event.pid: event.detail for event in stack.events(Happening.EXITED, "toolhub")}
    assert exits[ended] == "exited with 0"
