"""What the end of a handler means for its job."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from tests.unit.sdk.memory import World, attempt_of, definition, job, run
from workmesh.errors import MeshError, aborted, invalid_argument, unavailable
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk import BusinessError, Context, NonRetryableError, RetryableError
from workmesh.sdk.attempt import Attempt
from workmesh.sdk.errors import AttemptLost
from workmesh.sdk.outcome import Failure

RETRY = FailAttempt.VERDICT_RETRY
FAIL = FailAttempt.VERDICT_FAIL
DEAD_LETTER = FailAttempt.VERDICT_DEAD_LETTER


def raising(error: BaseException) -> Any:
    async def handler(ctx: Context) -> dict[str, Any]:
        raise error

    return handler


async def fails(handler: Any, **options: Any) -> Failure:
    world = World()
    failure = await run(world, handler, **options)
    assert failure is not None
    assert world.commits == 0
    return failure


async def test_a_handler_sees_its_job() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        assert ctx.deadline is not None
        return {
            "input": ctx.input,
            "job": [ctx.job_id, ctx.client_id, ctx.attempt],
            "labels": dict(ctx.labels),
            "deadline": ctx.deadline.isoformat(),
            "cancelled": ctx.cancelled,
        }

    world = World()
    record = job({"n": 1}, attempt=3, labels={"port": "DEHAM"}, deadline_micros=1_700_000_000_500_000)
    from tests.unit.sdk.memory import MemoryRuntime

    assert await Attempt(definition(handler), record, (), MemoryRuntime(world)).run() is None
    assert world.output == {
        "input": {"n": 1},
        "job": ["0199", "acme", 3],
        "labels": {"port": "DEHAM"},
        "deadline": "2023-11-14T22:13:20.500000+00:00",
        "cancelled": False,
    }


async def test_a_business_error_fails_the_job_with_its_own_code() -> None:
    failure = await fails(raising(BusinessError("NO_CAPACITY", "no vessel has room")))
    assert failure.verdict == FAIL
    assert (failure.error.reason, failure.error.message) == ("BUSINESS_FAILURE", "no vessel has room")
    assert failure.error.metadata == {"failure": "NO_CAPACITY"}


@pytest.mark.parametrize(
    ("error", "verdict", "retry_after"),
    [
        (NonRetryableError("never"), DEAD_LETTER, None),
        (RetryableError("later", retry_after=7.0), RETRY, 7.0),
        (KeyError("port"), RETRY, None),
        (SystemExit(3), RETRY, None),
        (asyncio.CancelledError(), RETRY, None),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_other_errors_mean(error: BaseException, verdict: int, retry_after: float | None) -> None:
    failure = await fails(raising(error))
    assert (failure.verdict, failure.retry_after) == (verdict, retry_after)
    assert failure.error.reason == "HANDLER_FAILED"


async def test_an_unexpected_exception_is_told_in_512_characters_and_its_stack_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        failure = await fails(raising(ValueError("no\0 " + "x" * 2000)))
    assert len(failure.error.message) == 512
    assert failure.error.message.startswith("no\ufffd xxx")
    assert failure.error.metadata == {"exception": "ValueError"}
    record = next(each for each in caplog.records if getattr(each, "action", "") == "attempt_failed")
    assert record.exc_info is not None
    assert record.__dict__["job_id"] == "0199"


async def test_text_that_is_no_unicode_does_not_hinder_the_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is logged of it could not be part of this test's own report.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    failure = await fails(raising(ValueError("bad \ud800 surrogate")))
    assert failure.error.message == "bad ? surrogate"


@pytest.mark.parametrize(
    ("output", "reason", "field"),
    [
        (None, "INVALID_FIELD", "output"),
        ([1], "INVALID_FIELD", "output"),
        ({"n": float("nan")}, "INVALID_FIELD", "output.n"),
        ({"n": object()}, "INVALID_FIELD", "output"),
        ({"n": "x" * (1 << 20)}, "PAYLOAD_TOO_LARGE", "output"),
        ({"n": "one"}, "SCHEMA_MISMATCH", "output.n"),
    ],
)
async def test_an_output_that_cannot_be_stored_dead_letters_the_job(
    output: Any, reason: str, field: str
) -> None:
    async def handler(ctx: Context) -> Any:
        return output

    failure = await fails(
        handler, output_schema={"type": "object", "properties": {"n": {"not": {"const": "one"}}}}
    )
    assert (failure.verdict, failure.error.reason) == (DEAD_LETTER, reason)
    assert [each.field for each in failure.error.violations] == [field]


async def test_a_cancelled_attempt_is_told_so_whatever_the_handler_makes_of_it() -> None:
    async def stubborn(ctx: Context) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"stubborn": True}
        return {}

    async def covering(ctx: Context) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("cleaning up failed")

    for handler in (stubborn, covering):
        world = World()
        task = asyncio.create_task(attempt_of(world, handler).run())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert world.commits == 0


async def test_a_stopped_attempt_hands_over_the_steps_that_shall_hold() -> None:
    reached = asyncio.Event()

    async def handler(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post")
        await ctx.step("think", lambda: 1)
        await ctx.state.get("ports", "hamburg")
        reached.set()
        await asyncio.Event().wait()
        return {}

    world = World(tools={"erp.post": lambda _: None})
    attempt = attempt_of(world, handler)
    task = asyncio.create_task(attempt.run())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    returned = Failure(FailAttempt.VERDICT_RETURN, unavailable("DRAINING", "the instance drains"))
    failure = await attempt.stop(returned)
    assert [step.step for step in failure.steps] == ["1", "2"]
    assert attempt.step_count == 3


class Refusing:
    """A runtime that refuses one kind of request."""

    def __init__(self, world: World, what: str, error: BaseException) -> None:
        from tests.unit.sdk.memory import MemoryRuntime

        self._inner = MemoryRuntime(world)
        self._what = what
        self._error = error

    def __getattr__(self, name: str) -> Any:
        if name != self._what:
            return getattr(self._inner, name)

        async def refuse(*_: Any) -> Any:
            raise self._error

        return refuse


async def steps_then_output(ctx: Context) -> dict[str, Any]:
    try:
        await ctx.tool("erp.post", {"n": 1})
        await ctx.tool("erp.post", {"n": 2})
    except Exception:
        await ctx.tool("erp.post", {"n": 3})
    return {}


@pytest.mark.parametrize("what", ["call_tool", "record_steps", "commit"])
async def test_an_attempt_that_lost_its_lease_reports_nothing(what: str) -> None:
    world = World(tools={"erp.post": lambda _: None})
    runtime = Refusing(world, what, AttemptLost("the lease is over"))
    with pytest.raises(AttemptLost):
        await Attempt(definition(steps_then_output), job(), (), runtime).run()
    assert world.commits == 0
    assert len(world.requests) == {"call_tool": 0, "record_steps": 1, "commit": 2}[what]


@pytest.mark.parametrize(
    ("what", "error", "verdict"),
    [
        ("record_steps", invalid_argument("too large"), DEAD_LETTER),
        ("commit", invalid_argument("too large"), DEAD_LETTER),
        ("commit", aborted("INTERNAL", "try again"), RETRY),
    ],
)
async def test_what_the_ledger_refuses_for_good_ends_the_attempt(
    what: str, error: MeshError, verdict: int
) -> None:
    world = World(tools={"erp.post": lambda _: None})
    failure = await Attempt(definition(steps_then_output), job(), (), Refusing(world, what, error)).run()
    assert failure is not None
    assert failure.verdict == verdict
    assert failure.error.message == error.message


async def test_a_state_that_cannot_be_read_now_means_another_attempt() -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        return {"port": await ctx.state.get("ports", "hamburg")}

    runtime = Refusing(World(), "read_state", unavailable("DEPENDENCY_DOWN", "no ledger", retry_after=1))
    failure = await Attempt(definition(handler), job(), (), runtime).run()
    assert failure is not None
    assert (failure.verdict, failure.retry_after) == (RETRY, 1)


async def test_log_lines_of_a_handler_name_the_job(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ctx: Context) -> dict[str, Any]:
        ctx.log.info("asked %s carriers", 2, extra={"carriers": 2})
        return {}

    with caplog.at_level(logging.INFO):
        assert await run(World(), handler) is None
    record = next(each for each in caplog.records if each.name == "workmesh.handler")
    assert record.getMessage() == "asked 2 carriers"
    assert record.__dict__["client_id"] == "acme"
    assert record.__dict__["carriers"] == 2


async def test_deep_recursion_in_a_handler_is_a_failure_like_any_other() -> None:
    def endless(depth: int) -> int:
        return endless(depth + 1)

    async def handler(ctx: Context) -> dict[str, Any]:
        return {"n": endless(0)}

    failure = await fails(handler)
    assert failure.error.metadata["exception"] == "RecursionError"
    assert sys.getrecursionlimit() >= 1000
