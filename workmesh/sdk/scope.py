"""Step keys: call paths in program order, whatever the interleaving of branches.

The steps of a handler are `1`, `2`, …; those of the second branch of step 3 are `3/2/1`, `3/2/2`, …
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

from workmesh.sdk.errors import NonRetryableError


class Scope:
    """One sequential piece of a program: the handler, a branch of a gather, the function of a step."""

    __slots__ = ("_count", "prefix", "task")

    def __init__(self, prefix: str, task: asyncio.Task[Any] | None) -> None:
        self.prefix = prefix
        self.task = task
        self._count = 0

    def next_key(self) -> str:
        """Return the key of the next step; only the scope's own task may ask.

        A second task would take numbers in the order of its scheduling, which no replay repeats.
        """
        if asyncio.current_task() is not self.task:
            raise NonRetryableError(
                "a step was begun in a task of its own: "
                "run branches by ctx.gather, and time limits by asyncio.timeout"
            )
        self._count += 1
        return f"{self.prefix}{self._count}"


current_scope: ContextVar[Scope] = ContextVar("workmesh_step_scope")
