"""State documents: reads that hold, writes with the commit, conflicts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.sdk.memory import MemoryRuntime, World, definition, job, run
from workmesh.ledger.v1.job_pb2 import StateWrite
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk import BusinessError, Context
from workmesh.sdk.attempt import MOST_CONFLICTS, Attempt
from workmesh.sdk.outcome import Failure


async def run_disturbed(
    world: World, handler: Callable[[Context], Any], disturb: Callable[[int], None]
) -> Failure | None:
    """Run an attempt; before each try to commit somebody else gets a turn."""

    class Runtime(MemoryRuntime):
        tries = 0

        async def commit(self, output: bytes, steps: Any, writes: Any) -> Any:
            self.tries += 1
            disturb(self.tries)
            self.written: list[StateWrite] = list(writes)
            return await super().commit(output, steps, writes)

    attempt = Attempt(definition(handler), job(), list(world.journal.values()), Runtime(world))
    failure = await attempt.run()
    if failure is not None:
        world.record(failure.steps)
    return failure


def bump(old: Any) -> Any:
    return (old or 0) + 1


async def test_writes_are_seen_by_the_attempt_and_by_others_after_the_commit() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        seen.append(await ctx.state.get("ports", "hamburg"))
        await ctx.state.put("ports", "hamburg", {"code": "DEHAM"})
        seen.append(await ctx.state.get("ports", "hamburg"))
        seen.append(await ctx.state.update("ports", "hamburg", lambda old: {**old, "open": True}))
        seen.append(world.documents.get(("ports", "hamburg")))
        return {}

    seen: list[Any] = []
    world = World()
    assert await run(world, handler) is None
    assert seen == [None, {"code": "DEHAM"}, {"code": "DEHAM", "open": True}, None]
    assert world.documents == {("ports", "hamburg"): (1, b'{"code":"DEHAM","open":true}')}


async def test_a_read_stays_the_same_for_the_rest_of_the_job() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        seen.append(await ctx.state.get("ports", "hamburg"))
        await ctx.tool("erp.post")
        seen.append(await ctx.state.get("ports", "hamburg"))
        if len(seen) == 2:
            raise RuntimeError("once")
        return {}

    seen: list[Any] = []
    world = World(tools={"erp.post": lambda _: world.write("ports", "hamburg", 2)})
    world.write("ports", "hamburg", 1)
    assert await run(world, handler) is not None
    assert await run(world, handler) is None
    assert seen == [1, 1, 1, 1]


async def test_a_failed_attempt_that_had_no_effect_since_reads_afresh_in_the_next() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post")
        value = await ctx.state.get("ports", "hamburg")
        if value == 1:
            raise RuntimeError("once")
        await ctx.state.put("ports", "hamburg", value + 1)
        return {}

    world = World(tools={"erp.post": lambda _: None})
    world.write("ports", "hamburg", 1)
    assert await run(world, handler) is not None
    assert set(world.journal) == {"1"}
    world.write("ports", "hamburg", 2)
    assert await run(world, handler) is None
    assert world.value("ports", "hamburg") == 3


async def test_on_a_conflict_only_update_functions_run_again() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        runs.append(1)
        await ctx.tool("erp.post")
        await ctx.state.update("counts", "orders", bump)
        await ctx.state.update("counts", "orders", bump)
        await ctx.state.put("counts", "blind", "written")
        return {"done": True}

    def disturb(tries: int) -> None:
        if tries <= 3:
            world.write("counts", "orders", 100 * tries)
            world.write("counts", "blind", "theirs")

    runs: list[int] = []
    world = World(tools={"erp.post": lambda _: None})
    assert await run_disturbed(world, handler, disturb) is None
    assert runs == [1]
    assert len(world.requests) == 1
    assert world.value("counts", "orders") == 302
    assert world.value("counts", "blind") == "written"


async def test_updates_that_never_win_end_in_another_attempt() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.state.update("counts", "orders", bump)
        return {}

    tries: list[int] = []

    def disturb(number: int) -> None:
        tries.append(number)
        world.write("counts", "orders", number)

    world = World()
    failure = await run_disturbed(world, handler, disturb)
    assert failure is not None
    assert (failure.verdict, failure.error.reason) == (FailAttempt.VERDICT_RETRY, "STATE_CONFLICT")
    assert len(tries) == MOST_CONFLICTS + 1
    assert not failure.steps


async def test_an_update_journaled_by_a_lost_attempt_is_applied_to_the_fresh_document() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        first = await ctx.state.update("counts", "orders", bump)
        await ctx.tool("erp.post", {"n": first})
        if len(world.journal) == 1:
            raise RuntimeError("once")
        return {"n": first}

    world = World(tools={"erp.post": lambda _: None})
    world.write("counts", "orders", 7)
    assert await run(world, handler) is not None
    world.write("counts", "orders", 50)
    assert await run(world, handler) is None
    assert world.output == {"n": 8}
    assert world.value("counts", "orders") == 51


async def test_a_plain_write_over_a_changed_document_is_tried_again_from_the_read() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post")
        value = await ctx.state.get("counts", "orders")
        await ctx.step("think", lambda: value)
        await ctx.state.put("counts", "orders", value + 1)
        return {}

    world = World(tools={"erp.post": lambda _: None})
    world.write("counts", "orders", 1)
    failure = await run_disturbed(world, handler, lambda _: world.write("counts", "orders", 10))
    assert failure is not None
    assert (failure.verdict, failure.error.reason) == (FailAttempt.VERDICT_RETRY, "STATE_CONFLICT")
    assert dict(failure.error.metadata) == {"collection": "counts", "key": "orders"}
    assert set(world.journal) == {"1"}
    assert await run(world, handler) is None
    assert world.value("counts", "orders") == 11
    assert len(world.requests) == 1


async def test_a_plain_write_over_a_changed_document_fails_the_job_once_an_effect_followed_the_read() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        value = await ctx.state.get("counts", "orders")
        await ctx.tool("erp.post", {"n": value})
        await ctx.state.put("counts", "orders", value + 1)
        return {}

    world = World(tools={"erp.post": lambda _: None})
    world.write("counts", "orders", 1)
    failure = await run_disturbed(world, handler, lambda _: world.write("counts", "orders", 10))
    assert failure is not None
    assert (failure.verdict, failure.error.reason) == (FailAttempt.VERDICT_FAIL, "STATE_CONFLICT")
    assert world.commits == 0


async def test_a_document_that_did_not_exist_conflicts_with_one_that_was_made_meanwhile() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        assert await ctx.state.get("ports", "hamburg") is None
        await ctx.state.put("ports", "hamburg", "ours")
        return {}

    world = World()
    failure = await run_disturbed(world, handler, lambda _: world.write("ports", "hamburg", "theirs"))
    assert failure is not None
    assert failure.error.reason == "STATE_CONFLICT"
    assert world.value("ports", "hamburg") == "theirs"


async def test_an_update_function_may_refuse_the_fresh_document() -> None:
    def take(old: Any) -> Any:
        if old == 0:
            raise BusinessError("NO_SLOT", "all slots are taken")
        return old - 1

    async def handler(ctx: Context) -> dict[str, Any]:
        return {"left": await ctx.state.update("slots", "hamburg", take)}

    world = World()
    world.write("slots", "hamburg", 1)
    failure = await run_disturbed(world, handler, lambda _: world.write("slots", "hamburg", 0))
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_FAIL
    assert failure.error.metadata["failure"] == "NO_SLOT"


async def test_a_branch_that_writes_first_in_a_replay_still_relies_on_the_read_of_another() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        turns = pauses.pop(0)

        async def write() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await ctx.state.put("ports", "hamburg", "ours")

        await ctx.gather(write(), ctx.state.get("ports", "hamburg"))
        await ctx.tool("erp.post")
        if pauses:
            raise RuntimeError("once")
        return {}

    pauses = [20, 0]
    world = World(tools={"erp.post": lambda _: None})
    world.write("ports", "hamburg", "first")
    assert await run(world, handler) is not None
    failure = await run_disturbed(world, handler, lambda _: world.write("ports", "hamburg", "theirs"))
    assert failure is not None
    assert failure.error.reason == "STATE_CONFLICT"


@pytest.mark.parametrize(
    ("collection", "key", "value", "complaint"),
    [
        ("Ports", "k", 1, "collection"),
        ("ports", "", 1, "256 characters"),
        ("ports", "k\0", 1, "U+0000"),
        ("ports", "k" * 257, 1, "256 characters"),
        ("ports", "k\ud800", 1, "256 characters"),
        ("ports", 7, 1, "256 characters"),
        ("ports", "k", float("inf"), "NaN"),
        ("ports", "k", "x" * (256 << 10), "more than"),
    ],
)
async def test_impossible_documents_end_the_job(
    collection: str, key: Any, value: Any, complaint: str
) -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.state.put(collection, key, value)
        return {}

    world = World()
    failure = await run(world, handler)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert complaint in failure.error.message
    assert not world.documents
