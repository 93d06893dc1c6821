"""Running several endless works as one, and ending them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

_AGAIN_SECONDS: Final = 0.1


async def run_together(*works: Coroutine[Any, Any, object]) -> None:
    """Run until one of the works ends, end the others, and raise what the first one raised, if it did."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)
    for task in done:
        task.result()


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks until they have ended, whatever they raise.

    Once is not enough: nats-py swallows a cancellation that meets its flushing, and before Python 3.12
    `asyncio.wait_for` one that meets its result. A caller that is cancelled meanwhile is so afterwards.
    """
    cancelled = False
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        try:
            await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
        except asyncio.CancelledError:
            cancelled = True
    for task in tasks:
        if not task.cancelled():
            task.exception()
    if cancelled:
        raise asyncio.CancelledError
