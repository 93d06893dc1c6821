"""An event loop on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for callers on any loop.

    Supervision must go on while a caller's loop is busy or closed, as in a benchmark or between two
    tests. The kernel's parent-death signal fires when the thread that started a process ends; this
    one lives until every process has been stopped.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run the coroutine there and await its result here.

        A caller that is cancelled cancels it, and waits until it has ended: cleaning up is part of it.
        """
        here = asyncio.get_running_loop()
        ended: asyncio.Future[asyncio.Task[Result]] = here.create_future()
        begun: asyncio.Future[asyncio.Task[Result]] = here.create_future()

        def begin() -> None:
            task = self._loop.create_task(coroutine)
            here.call_soon_threadsafe(begun.set_result, task)
            task.add_done_callback(lambda done: here.call_soon_threadsafe(ended.set_result, done))

        self._loop.call_soon_threadsafe(begin)
        try:
            return (await asyncio.shield(ended)).result()
        except asyncio.CancelledError:
            task = await begun
            self._loop.call_soon_threadsafe(task.cancel)
            await ended
            raise

    def call_blocking(self, function: Callable[[], Result]) -> Result:
        """Run a short function there and wait for its result."""

        async def run() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10.0)

    async def close(self) -> None:
        """End the loop and its thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(self._thread.join)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
