"""Branches: the same keys, results and failures whatever the interleaving."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.sdk.memory import MemoryRuntime, World, definition, job, refuse, run
from workmesh.errors import failed_precondition, unavailable
from workmesh.ledger.v1.job_pb2 import JournalStep, StateDocument, StateWrite
from workmesh.sdk import Context, ToolError
from workmesh.sdk.attempt import Attempt

Shape = list[Any]


class Director:
    """A runtime whose outstanding calls end in the order that a list of choices says."""

    def __init__(self, world: World, choices: Sequence[int], ends_after: int | None) -> None:
        self.world = world
        self.calls: list[tuple[asyncio.Future[bytes], str, str, bytes]] = []
        self._choices = list(choices)
        self._left = ends_after

    def call_tool(self, step: str, tool: str, arguments: bytes) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.calls.append((future, step, tool, arguments))
        return future

    async def record_steps(self, steps: Sequence[JournalStep]) -> None:
        self.world.record(steps)

    async def read_state(self, collection: str, key: str) -> StateDocument:
        return self.world.document(collection, key)

    async def commit(
        self, output: bytes, steps: Sequence[JournalStep], writes: Sequence[StateWrite]
    ) -> Sequence[StateDocument]:
        self.world.record(steps)
        self.world.output = orjson.loads(output)
        self.world.commits += 1
        return ()

    async def direct(self, task: asyncio.Task[Any]) -> bool:
        """Answer calls until the attempt ends (True) or as many were answered as it may live."""
        while True:
            for _ in range(30):
                await asyncio.sleep(0)
            if task.done():
                return True
            if self._left == 0:
                return False
            if self._left is not None:
                self._left -= 1
            index = self._choices.pop() if self._choices else 0
            future, step, tool, arguments = self.calls.pop(index % len(self.calls))
            if not future.done():
                future.set_result(self.world.request(step, tool, arguments))


def program(shape: Shape) -> Any:
    """Return a handler whose calls are nested as a shape says: a number is a call, a list is a gather."""

    async def visit(ctx: Context, part: Any) -> Any:
        if isinstance(part, int):
            return await ctx.tool("erp.post", {"leaf": part})
        results = []
        for each in part:
            if isinstance(each, tuple):
                results.append(await ctx.gather(*(visit(ctx, branch) for branch in each)))
            else:
                results.append(await visit(ctx, each))
        return results

    async def handler(ctx: Context) -> dict[str, Any]:
        return {"results": await visit(ctx, shape)}

    return handler


leaves = st.integers(0, 9)
shapes = st.lists(
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.tuples(st.lists(inner, max_size=3), inner),
        max_leaves=8,
    ),
    min_size=1,
    max_size=4,
)


async def play(world: World, shape: Shape, choices: Sequence[int], ends_after: int | None = None) -> bool:
    runtime = Director(world, choices, ends_after)
    attempt = Attempt(definition(program(shape)), job(), list(world.journal.values()), runtime)
    task = asyncio.create_task(attempt.run())
    ended = await runtime.direct(task)
    if ended:
        assert task.result() is None
    else:
        task.cancel()
        await asyncio.wait({task})
    return ended


@settings(max_examples=40, deadline=None)
@given(
    shapes,
    st.lists(st.integers(0, 7), max_size=12),
    st.integers(0, 6),
    st.lists(st.integers(0, 7), max_size=12),
)
def test_interleaving_and_deaths_change_neither_keys_nor_results(
    shape: Shape, first: list[int], ends_after: int, second: list[int]
) -> None:
    def new_world() -> World:
        return World(tools={"erp.post": lambda arguments: [arguments["leaf"], "posted"]})

    straight, disturbed = new_world(), new_world()
    assert asyncio.run(play(straight, shape, ()))
    if not asyncio.run(play(disturbed, shape, first, ends_after)):
        assert asyncio.run(play(disturbed, shape, second))
    assert disturbed.commits == 1
    assert disturbed.output == straight.output
    assert disturbed.effects == straight.effects
    assert set(disturbed.journal) == set(straight.journal)


async def test_branches_run_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)

    async def handler(ctx: Context) -> dict[str, Any]:
        async def branch(number: int) -> int:
            await meeting.wait()
            return number

        return {"numbers": await ctx.gather(branch(1), branch(2), branch(3))}

    world = World()
    async with asyncio.timeout(5):
        assert await run(world, handler) is None
    assert world.output == {"numbers": [1, 2, 3]}


async def test_the_first_failure_cancels_and_awaits_the_others() -> None:
    ended: list[str] = []

    async def handler(ctx: Context) -> dict[str, Any]:
        async def patient() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("patient")

        with pytest.raises(ToolError, match="INTEGRATION_REFUSED"):
            await ctx.gather(patient(), ctx.tool("erp.post", {}), patient())
        assert ended == ["patient", "patient"]
        return {}

    world = World(tools={"erp.post": refuse(failed_precondition("INTEGRATION_REFUSED", "no"))})
    assert await run(world, handler) is None


async def test_of_failures_of_one_moment_the_first_in_program_order_is_raised() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        async def fail(name: str) -> None:
            raise ValueError(name)

        with pytest.raises(ValueError, match="first"):
            await ctx.gather(fail("first"), fail("second"))
        return {}

    assert await run(World(), handler) is None


async def test_a_step_in_a_task_of_its_own_is_refused() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        async def branch() -> None:
            await ctx.tool("erp.post", {})

        await asyncio.gather(branch(), branch())
        return {}

    world = World(tools={"erp.post": lambda _: None})
    failure = await run(world, handler)
    assert failure is not None
    assert "ctx.gather" in failure.error.message
    assert not world.requests


async def test_a_passing_failure_that_a_branch_survived_is_the_same_in_the_next_attempt() -> None:
    """The handler went on past it, so its choice must be repeatable though the tool works by then."""

    async def handler(ctx: Context) -> dict[str, Any]:
        async def ask(carrier: str) -> Any:
            try:
                return await ctx.tool(f"{carrier}.quote", {})
            except ToolError:
                return None

        quotes = await ctx.gather(ask("north"), ask("south"))
        order = await ctx.tool("erp.post", {"quotes": quotes})
        attempts.append(order)
        if len(attempts) == 1:
            raise RuntimeError("once")
        return {"order": order}

    attempts: list[Any] = []
    world = World(tools={"south.quote": lambda _: 100, "erp.post": lambda arguments: arguments["quotes"]})
    world.tools["north.quote"] = refuse(unavailable("INTEGRATION_FAILED", "down"))
    assert await run(world, handler) is not None
    world.tools["north.quote"] = lambda _: 90
    assert await run(world, handler) is None
    assert attempts == [[None, 100], [None, 100]]
    assert set(world.effects) == {"1/2/1", "2"}


async def test_a_passing_failure_that_ends_a_gather_is_not_journaled_by_its_siblings() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        async def hold() -> None:
            try:
                await asyncio.sleep(0 if quotes_work else 3600)
            finally:
                await ctx.tool("erp.release")

        await ctx.gather(ctx.tool("north.quote", {}), hold())
        return {}

    quotes_work = False
    world = World(tools={"erp.release": lambda _: None})
    world.tools["north.quote"] = refuse(unavailable("INTEGRATION_FAILED", "down", retry_after=3))
    failure = await run(world, handler)
    assert failure is not None
    assert failure.retry_after == 3
    assert set(world.journal) == {"2/2/1"}
    quotes_work = True
    world.tools["north.quote"] = lambda _: 90
    assert await run(world, handler) is None
    assert set(world.effects) == {"1", "2/2/1"}


async def test_a_branch_that_was_cancelled_is_not_run_again_by_a_replay() -> None:
    """It may have had its effect or not: what counts is that the program went on without it."""

    async def handler(ctx: Context) -> dict[str, Any]:
        async def slow() -> Any:
            await ctx.tool("port.reserve")
            return await ctx.tool("port.pay")

        reason = ""
        try:
            await ctx.gather(slow(), ctx.tool("erp.post"))
        except ToolError as error:
            reason = error.reason
        await ctx.tool("erp.note", {"reason": reason})
        attempts.append(reason)
        if len(attempts) == 1:
            raise RuntimeError("once")
        return {"reason": reason}

    attempts: list[str] = []
    world = World(tools={"port.reserve": lambda _: 1, "port.pay": lambda _: 2, "erp.note": lambda _: None})
    world.tools["erp.post"] = refuse(failed_precondition("INTEGRATION_REFUSED", "no"))
    assert await run(world, handler) is not None
    requests = list(world.requests)
    assert await run(world, handler) is None
    assert world.requests == requests
    assert attempts == ["INTEGRATION_REFUSED"] * 2


async def test_a_call_that_the_handler_timed_out_times_out_again_in_a_replay() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        try:
            async with asyncio.timeout(0.02):
                carrier = await ctx.tool("north.quote")
        except TimeoutError:
            carrier = "south"
        await ctx.tool("erp.post", {"carrier": carrier})
        attempts.append(carrier)
        if len(attempts) == 1:
            raise RuntimeError("once")
        return {}

    class Hanging(MemoryRuntime):
        async def call_tool(self, step: str, tool: str, arguments: bytes) -> bytes:
            if tool == "north.quote":
                await asyncio.Event().wait()
            return await super().call_tool(step, tool, arguments)

    attempts: list[str] = []
    world = World(tools={"erp.post": lambda _: None, "north.quote": lambda _: "north"})
    failure = await Attempt(definition(handler), job(), (), Hanging(world)).run()
    assert failure is not None
    world.record(failure.steps)
    assert await run(world, handler) is None
    assert attempts == ["south", "south"]
    assert [tool for _, tool, _ in world.requests] == ["erp.post"]
