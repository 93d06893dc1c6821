"""Stacks for tests: the one that a session shares, and others of a test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from workmesh.local import Stack, StackOptions

ACCEPTANCE = Path(__file__).parent / "acceptance"
MESH = StackOptions(
    agents=2,
    handlers=("tests.acceptance.handlers",),
    integrations=ACCEPTANCE / "integrations.yaml",
)


@contextmanager
def running(
    options: StackOptions | None = None,
    *,
    only: Sequence[str] | None = None,
    profile: str | None = None,
    home: Path | None = None,
) -> Iterator[Stack]:
    """A stack that runs while the block does; for fixtures of any scope, because it needs no loop."""
    stack = Stack(profile, options=options, only=only, home=home)
    asyncio.run(stack.start())
    try:
        yield stack
    finally:
        asyncio.run(stack.stop())


async def eventually(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> None:
    """Wait until it holds, for what another process does and tells nobody; TimeoutError if it never does."""
    async with asyncio.timeout(seconds):
        while not await holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
