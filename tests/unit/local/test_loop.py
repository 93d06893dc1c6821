from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from workmesh.local.loop import LoopThread


@pytest.fixture
async def thread() -> AsyncIterator[LoopThread]:
    loop_thread = LoopThread("test")
    loop_thread.start()
    yield loop_thread
    await loop_thread.close()


async def test_a_result_and_an_error_come_back(thread: LoopThread) -> None:
    async def divide(a: int, b: int) -> float:
        await asyncio.sleep(0)
        return a / b

    assert await thread.call(divide(4, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        await thread.call(divide(1, 0))
    assert thread.call_blocking(lambda: 7) == 7


async def test_a_cancelled_caller_waits_until_the_work_has_been_cleaned_up(thread: LoopThread) -> None:
    begun = asyncio.Event()
    here = asyncio.get_running_loop()
    steps: list[str] = []

    async def work() -> None:
        here.call_soon_threadsafe(begun.set)
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            steps.append("cleaned up")

    call = asyncio.create_task(thread.call(work()))
    await begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert steps == ["cleaned up"]
