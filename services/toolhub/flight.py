"""The state of one call under way: what was sent, and whether anybody still wants its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Flight:
    """Lets a call be cancelled where nothing is at stake, and go on to a known end where something is.

    While held (a request is on its way, or an effect is claimed) an abandoned call runs on; as soon as nobody
    holds it any more its task is cancelled.
    """

    __slots__ = ("_holds", "abandoned", "request_count", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None
        self.abandoned = False
        self.request_count = 0
        self._holds = 0

    def abandon(self) -> None:
        """Say that nobody waits for the call any more."""
        self.abandoned = True
        self._cancel_if_free()

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the call from being cancelled for as long as the block runs."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            if self.abandoned:
                self._cancel_if_free()

    def _cancel_if_free(self) -> None:
        if not self._holds and self.task is not None and not self.task.done():
            self.task.cancel()
