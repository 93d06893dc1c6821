"""Branches of a handler that run at the same time, with keys as if they ran one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from workmesh.sdk.errors import RetryableError
from workmesh.sdk.scope import Scope, current_scope


async def gather(key: str, awaitables: tuple[Awaitable[Any], ...]) -> list[Any]:
    """Await all branches; the first failure cancels and awaits the others, then is raised.

    Of branches that failed together the first in program order counts, as a replay would find it.
    """
    tasks = [
        asyncio.create_task(_branch(Scope(f"{key}/{index}/", None), each))
        for index, each in enumerate(awaitables, start=1)
    ]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await _end(tasks)
    failures = [task.exception() for task in tasks if not task.cancelled()]
    for failure in failures:
        if failure is not None:
            raise failure
    return [task.result() for task in tasks]


async def _branch(scope: Scope, work: Awaitable[Any]) -> Any:
    """Run one branch of a gather in a task of its own."""
    scope.task = asyncio.current_task()
    current_scope.set(scope)
    try:
        return await work
    except SystemExit as error:
        raise RetryableError("the handler raised SystemExit") from error


async def _end(tasks: list[asyncio.Task[Any]]) -> None:
    unfinished = [task for task in tasks if not task.done()]
    for task in unfinished:
        task.cancel()
    if unfinished:
        await asyncio.wait(unfinished)
    for task in tasks:
        if not task.cancelled():
            # Looked at, so that a failure that another one outran is not reported as forgotten.
            task.exception()
