"""Tool calls: which failures are final, what is journaled, what becomes of the job."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from tests.unit.sdk.memory import World, refuse, run
from workmesh.errors import (
    MeshError,
    deadline_exceeded,
    failed_precondition,
    invalid_argument,
    permission_denied,
    resource_exhausted,
    unavailable,
)
from workmesh.ledger.v1.event_pb2 import StepKind
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk import Context, NonRetryableError, ToolError
from workmesh.sdk.outcome import is_transient

REFUSED = failed_precondition("INTEGRATION_REFUSED", "the order is a duplicate", http_status="409")
FINAL = [
    REFUSED,
    invalid_argument("arguments do not match", reason="SCHEMA_MISMATCH"),
    permission_denied("TOOL_NOT_ALLOWED", "not in the definition"),
]
PASSING = [
    unavailable("INTEGRATION_FAILED", "down", retry_after=2.5),
    deadline_exceeded("too slow"),
    resource_exhausted("QUEUE_FULL", "bulkhead", retry_after=1.0),
    MeshError(grpc.StatusCode.CANCELLED, "CANCELLED", "cut off"),
]


async def post(ctx: Context) -> dict[str, Any]:
    return {"order": await ctx.tool("erp.post", {"n": 1})}


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.reason)
async def test_a_final_failure_that_the_handler_handles_is_replayed_as_the_same_error(
    error: MeshError,
) -> None:
    seen: list[ToolError] = []

    async def handler(ctx: Context) -> dict[str, Any]:
        try:
            await ctx.tool("erp.post", {"n": 1})
        except ToolError as caught:
            seen.append(caught)
        if len(seen) == 1:
            raise RuntimeError("once")
        return {}

    world = World(tools={"erp.post": refuse(error)})
    assert await run(world, handler) is not None
    assert world.journal["1"].error.message == error.message
    assert await run(world, handler) is None
    first, second = seen
    assert (first.reason, first.message, dict(first.metadata)) == (
        second.reason,
        second.message,
        dict(second.metadata),
    )
    assert first.reason == error.reason
    assert not second.transient
    assert len(world.requests) == 1


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.reason)
async def test_a_final_failure_that_nobody_handles_dead_letters_the_job(error: MeshError) -> None:
    world = World(tools={"erp.post": refuse(error)})
    failure = await run(world, post)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert failure.error.reason == error.reason
    assert failure.error.metadata["tool"] == "erp.post"
    assert failure.error.metadata["step"] == "1"


async def test_a_redriven_job_makes_the_call_again_whose_failure_ended_it() -> None:
    world = World(tools={"erp.post": refuse(REFUSED)})
    assert await run(world, post) is not None
    world.tools["erp.post"] = lambda _: "posted"
    assert await run(world, post) is None
    assert world.output == {"order": "posted"}


@pytest.mark.parametrize("error", PASSING, ids=lambda error: error.reason)
async def test_a_passing_failure_is_not_journaled_and_means_another_attempt(error: MeshError) -> None:
    world = World(tools={"erp.post": refuse(error)})
    failure = await run(world, post)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_RETRY
    assert failure.error.reason == error.reason
    assert failure.retry_after == error.retry_after
    assert not world.journal
    world.tools["erp.post"] = lambda _: "posted"
    assert await run(world, post) is None
    assert len(world.effects) == 1


async def test_an_unsettled_effect_waits_for_a_decision_unless_it_will_be_known_soon() -> None:
    unsettled = failed_precondition("EFFECT_UNSETTLED", "outcome unknown")
    world = World(tools={"erp.post": refuse(unsettled)})
    failure = await run(world, post)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert not world.journal
    unsettled.retry_after = 4.0
    failure = await run(world, post)
    assert failure is not None
    assert (failure.verdict, failure.retry_after) == (FailAttempt.VERDICT_RETRY, 4.0)
    world.tools["erp.post"] = lambda _: "posted"
    assert await run(world, post) is None


async def test_a_claim_met_with_other_arguments_ends_the_job_whatever_the_handler_does() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        try:
            await ctx.tool("erp.post", {})
        except Exception:
            return {"held": True}
        return {}

    world = World(tools={"erp.post": refuse(failed_precondition("REPLAY_MISMATCH", "other arguments"))})
    failure = await run(world, handler)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert failure.error.reason == "REPLAY_MISMATCH"
    assert world.commits == 0


async def test_a_result_too_large_for_the_journal_is_a_final_failure() -> None:
    world = World(tools={"erp.post": lambda _: "x" * (257 << 10)})
    failure = await run(world, post)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert failure.error.reason == "PAYLOAD_TOO_LARGE"


async def test_results_that_outgrow_the_journal_together_end_the_job() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        for number in range(20):
            await ctx.tool("erp.post", {"n": number})
        return {}

    world = World(tools={"erp.post": lambda _: "x" * (250 << 10)})
    failure = await run(world, handler)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert "references" in failure.error.message
    assert len(world.requests) < 10


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"n": float("nan")}, "NaN"),
        ({"n": "\0"}, "U+0000"),
        ({"n": object()}, "not JSON"),
        ({1: "n"}, "not JSON"),
        ([1], "not a dict"),
        ({"n": "x" * (1 << 20)}, "more than"),
    ],
)
async def test_arguments_that_are_no_json_object_end_the_job_before_the_call(
    arguments: Any, complaint: str
) -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        with pytest.raises(NonRetryableError, match=r"arguments of erp\.post"):
            await ctx.tool("erp.post", arguments)
        return {"n": await ctx.tool("erp.post", arguments)}

    world = World(tools={"erp.post": lambda _: None})
    failure = await run(world, handler)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert complaint in failure.error.message
    assert not world.requests


async def test_arguments_are_taken_when_the_call_is_made_and_compared_whatever_their_order() -> None:
    order = ["b", "a"]

    async def handler(ctx: Context) -> dict[str, Any]:
        order.reverse()
        arguments = dict.fromkeys(order, 1)
        call = ctx.tool("erp.post", arguments)
        arguments["c"] = 1
        await call
        if len(attempts) == 0:
            attempts.append(1)
            raise RuntimeError("once")
        return {}

    attempts: list[int] = []
    world = World(tools={"erp.post": lambda _: None})
    assert await run(world, handler) is not None
    assert await run(world, handler) is None
    assert world.requests == [("1", "erp.post", b'{"a":1,"b":1}')]
    assert world.journal["1"].kind == StepKind.STEP_KIND_TOOL


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (failed_precondition("INTEGRATION_REFUSED", "no"), False),
        (MeshError(grpc.StatusCode.UNKNOWN, "INTEGRATION_REFUSED", "no"), False),
        (MeshError(grpc.StatusCode.RESOURCE_EXHAUSTED, "INTEGRATION_REFUSED", "slow down"), True),
        (MeshError(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error"), True),
        (unavailable("CIRCUIT_OPEN", "open", retry_after=9), True),
        (MeshError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "expired"), True),
        (MeshError(grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND", "no such"), False),
    ],
)
def test_which_failures_pass(error: MeshError, transient: bool) -> None:
    assert is_transient(error) is transient


@pytest.mark.parametrize("name", ["", 7, None, "erp.\ud800", "erp." + "x" * 200])
async def test_what_is_no_tool_name_never_leaves_the_handler(name: Any) -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        return {"result": await ctx.tool(name, {})}

    world = World()
    failure = await run(world, handler)
    assert failure is not None
    assert failure.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert "is not the name of a tool" in failure.error.message
