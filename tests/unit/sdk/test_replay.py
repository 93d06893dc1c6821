"""A later attempt goes the way of the earlier ones and repeats no journaled step."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.unit.sdk.memory import Killed, World, run
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk import Context


async def voyage(ctx: Context) -> dict[str, Any]:
    """Take every kind of step, in sequence and in branches."""
    number = ctx.random()
    moment = ctx.now()
    name = ctx.uuid()
    quote = await ctx.tool("carrier.quote", {"container": ctx.input["container"], "salt": number})

    async def leg(port: str) -> dict[str, Any]:
        slot = await ctx.tool("port.reserve", {"port": port})
        doubled = await ctx.step("double", lambda value: value * 2, slot["slot"])
        fee = await ctx.tool("port.pay", {"port": port, "slot": doubled})
        return {"port": port, "fee": fee}

    legs = await ctx.gather(leg("DEHAM"), ctx.tool("customs.clear", {"name": name}), leg("NLRTM"))
    known = await ctx.state.get("voyages", "today")
    count = await ctx.state.update("voyages", "count", lambda old: (old or 0) + 1)
    await ctx.state.put("voyages", "last", {"name": name, "known": known})
    order = await ctx.tool("erp.post", {"legs": legs, "count": count})
    return {"quote": quote, "legs": legs, "order": order, "at": moment.isoformat(), "name": name}


def new_world() -> World:
    slots = {"DEHAM": 4, "NLRTM": 7}
    return World(
        tools={
            "carrier.quote": lambda arguments: {"price": 100, "for": arguments},
            "port.reserve": lambda arguments: {"slot": slots[arguments["port"]]},
            "port.pay": lambda arguments: {"paid": arguments},
            "customs.clear": lambda arguments: {"cleared": arguments["name"]},
            "erp.post": lambda arguments: {"order": len(arguments["legs"])},
        },
        documents={("voyages", "count"): (3, b"41")},
    )


async def test_step_keys_are_call_paths_in_program_order() -> None:
    world = new_world()
    assert await run(world, voyage, {"container": "CSQU3054383"}) is None
    assert [(step, tool) for step, tool, _ in sorted(world.requests)] == [
        ("4", "carrier.quote"),
        ("5", "customs.clear"),
        ("6/1/1", "port.reserve"),
        ("6/1/3", "port.pay"),
        ("6/3/1", "port.reserve"),
        ("6/3/3", "port.pay"),
        ("9", "erp.post"),
    ]
    names = {key: step.name for key, step in world.journal.items()}
    assert names["1"] == "random"
    assert names["6/3/2"] == "double"
    assert (names["7"], names["8"]) == ("voyages/today", "voyages/count")


async def moments_of_a_whole_run() -> int:
    """Count the moments at which the process can die."""
    for moment in range(1, 200):
        world = new_world()
        try:
            await run(world, voyage, {"container": "CSQU3054383"}, dies_at=moment)
        except Killed:
            continue
        return moment - 1
    raise AssertionError("the run does not end")


async def test_death_at_any_moment_leaves_one_effect_a_step_and_one_outcome() -> None:
    moments = await moments_of_a_whole_run()
    assert moments > 25
    for moment in range(1, moments + 1):
        world = new_world()
        with pytest.raises(Killed):
            await run(world, voyage, {"container": "CSQU3054383"}, dies_at=moment)
        if not world.commits:
            assert await run(world, voyage, {"container": "CSQU3054383"}) is None
        assert world.commits == 1
        assert len(world.effects) == 7
        assert world.output["name"] == orjson.loads(world.effects["5"][2])["cleared"]
        assert world.output["quote"]["for"] == orjson.loads(world.effects["4"][1])
        assert world.value("voyages", "count") == 42
        assert world.value("voyages", "last")["name"] == world.output["name"]


async def test_deaths_one_after_the_other_still_end_in_one_outcome() -> None:
    world = new_world()
    deaths = 0
    for moment in range(3, 60):
        try:
            assert await run(world, voyage, {"container": "CSQU3054383"}, dies_at=moment) is None
            break
        except Killed:
            deaths += 1
            if world.commits:
                break
    assert deaths > 5
    assert world.commits == 1
    assert len(world.effects) == 7


async def test_a_journaled_step_is_recorded_before_the_next_tool_call() -> None:
    world = World(tools={"erp.post": lambda arguments: None})
    seen: list[set[str]] = []
    world.tools["erp.post"] = lambda _: seen.append(set(world.journal))

    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post", {"n": 1})
        ctx.random()
        await ctx.step("plain", lambda: 1)
        await ctx.tool("erp.post", {"n": 2})
        return {}

    assert await run(world, handler) is None
    assert seen == [set(), {"1", "2", "3"}]
    assert set(world.journal) == {"1", "2", "3", "4"}


async def test_a_step_function_gives_what_its_journal_will_give() -> None:
    kinds: list[str] = []

    async def handler(ctx: Context) -> dict[str, Any]:
        async def pair() -> tuple[int, int]:
            await asyncio.sleep(0)
            return (1, 2)

        value = await ctx.step("pair", pair)
        kinds.append(type(value).__name__)
        if len(kinds) == 1:
            await ctx.tool("erp.post")
            raise RuntimeError("once")
        return {"value": value}

    world = World(tools={"erp.post": lambda _: None})
    failure = await run(world, handler)
    assert failure is not None
    assert await run(world, handler) is None
    assert kinds == ["list", "list"]
    assert world.output == {"value": [1, 2]}


async def test_steps_inside_a_step_function_do_not_shift_those_after_it() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        async def inner() -> int:
            await ctx.tool("erp.post", {"inner": True})
            return 5

        value = await ctx.step("outer", inner)
        await ctx.tool("erp.post", {"value": value})
        if len(world.effects) < 3:
            await ctx.tool("erp.post", {"third": True})
            raise RuntimeError("once")
        return {"value": value}

    world = World(tools={"erp.post": lambda _: None})
    assert await run(world, handler) is not None
    assert await run(world, handler) is None
    assert [step for step, _, _ in world.requests] == ["1/1", "2", "3"]


@pytest.mark.parametrize(
    ("changed", "recorded", "found"),
    [
        ("tool", "TOOL 'erp.post'", "TOOL 'erp.put'"),
        ("arguments", "TOOL 'erp.post' with other arguments", "these"),
        ("kind", "TOOL 'erp.post'", "FUNCTION 'erp.post'"),
    ],
)
async def test_a_program_that_leaves_its_journal_is_stopped_before_any_effect(
    changed: str, recorded: str, found: str
) -> None:
    async def before(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post", {"n": 1})
        await ctx.tool("erp.post", {"n": 2})
        raise RuntimeError("once")

    async def after(ctx: Context) -> dict[str, Any]:
        try:
            if changed == "tool":
                await ctx.tool("erp.put", {"n": 1})
            elif changed == "arguments":
                await ctx.tool("erp.post", {"n": 3})
            else:
                await ctx.step("erp.post", lambda: None)
        except Exception:
            await ctx.tool("erp.post", {"n": 4})
        return {}

    world = World(tools={"erp.post": lambda _: None, "erp.put": lambda _: None})
    await run(world, before)
    failure = await run(world, after)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert failure.error.reason == "REPLAY_MISMATCH"
    assert recorded in failure.error.message
    assert found in failure.error.message
    assert failure.error.metadata["step"] == "1"
    assert failure.error.metadata["recorded_name"] == "erp.post"
    assert len(world.requests) == 2
    assert world.commits == 0


async def test_a_mismatch_cannot_be_held_up_by_the_handler() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        try:
            await ctx.tool("erp.post", {"n": len(world.requests)})
        except BaseException:
            return {"held": True}
        await ctx.tool("erp.post", {"second": True})
        raise RuntimeError("once")

    world = World(tools={"erp.post": lambda _: None})
    await run(world, handler)
    failure = await run(world, handler)
    assert failure is not None
    assert failure.error.reason == "REPLAY_MISMATCH"
    assert world.commits == 0


async def test_many_small_steps_without_a_tool_call_do_not_pile_up() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        total = 0.0
        for _ in range(300):
            total += ctx.random()
            total += await ctx.step("one", lambda: 1)
        return {"total": total}

    world = World()
    assert await run(world, handler) is None
    assert len(world.journal) == 600
    assert world.output["total"] > 300


async def test_values_of_an_instant_are_the_same_in_every_attempt() -> None:
    seen: list[tuple[float, str, str]] = []

    async def handler(ctx: Context) -> dict[str, Any]:
        seen.append((ctx.random(), ctx.now().isoformat(), ctx.uuid()))
        if len(seen) == 1:
            raise RuntimeError("once")
        return {}

    world = World()
    await run(world, handler)
    assert await run(world, handler) is None
    assert seen[0] == seen[1]
