"""Ending what runs together."""

from __future__ import annotations

import asyncio

import pytest

from services.scheduler.tasks import end, run_together


async def swallow(times: int, ended: list[str]) -> None:
    """Go on over so many cancellations, as some libraries do."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            times -= 1
            if times < 0:
                ended.append("swallower")
                raise


async def test_a_work_that_swallows_cancellations_is_ended_all_the_same() -> None:
    ended: list[str] = []
    task = asyncio.create_task(swallow(2, ended))
    await asyncio.sleep(0)
    await end(task)
    assert ended == ["swallower"]


async def test_the_first_failure_ends_all_and_is_raised() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        await run_together(swallow(1, ended), fail())
    assert ended == ["swallower"]


async def test_a_cancelled_caller_ends_everything_before_it_ends() -> None:
    ended: list[str] = []
    caller = asyncio.create_task(run_together(swallow(3, ended), swallow(1, ended)))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == ["swallower", "swallower"]
