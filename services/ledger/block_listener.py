"""Learns of blocks that any process committed: LISTEN, and a sweep for what no notification told."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg

from services.ledger.block_reader import BlockReader
from services.ledger.database import BLOCKS_CHANNEL, is_outage
from services.ledger.read_pool import Row

logger = logging.getLogger(__name__)

_CALL_SECONDS: Final = 5.0
_FIRST_DELAY: Final = 0.1
_MAX_DELAY: Final = 3.0

Connect = Callable[[], Awaitable[asyncpg.Connection]]


class BlockListener:
    """Keeps a connection of its own that listens; opens it anew when it breaks.

    A writer that dies between COMMIT and NOTIFY tells nobody, so the heads are read each `sweep` seconds
    too; that also finds out whether a silent connection still lives.
    """

    def __init__(self, connect: Connect, *, sweep: float = 1.0) -> None:
        self._connect = connect
        self._sweep = sweep

    async def run(
        self, notified: Callable[[str], bool], sweep: Callable[[BlockReader], Awaitable[None]]
    ) -> None:
        """Call `notified` with each payload; `sweep` when that returns True, on connecting and periodically.

        Runs until cancelled.
        """
        delay = _FIRST_DELAY
        while True:
            try:
                connection = await self._connect()
                delay = _FIRST_DELAY
                try:
                    await self._listen(connection, notified, sweep)
                finally:
                    connection.terminate()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning(
                    "Does not hear of blocks, connects anew",
                    extra={"action": "block_listener_lost", "error": repr(error)},
                )
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _MAX_DELAY)

    async def _listen(
        self,
        connection: asyncpg.Connection,
        notified: Callable[[str], bool],
        sweep: Callable[[BlockReader], Awaitable[None]],
    ) -> None:
        due = asyncio.Event()

        def on_notification(*notification: Any) -> None:
            if notified(notification[-1]):
                due.set()

        async def fetch(statement: str, *arguments: Any, seconds: float = _CALL_SECONDS) -> list[Row]:
            rows: list[Row] = await connection.fetch(statement, *arguments, timeout=seconds)
            return rows

        connection.add_termination_listener(lambda _: due.set())
        async with asyncio.timeout(_CALL_SECONDS):
            await connection.add_listener(BLOCKS_CHANNEL, on_notification)
        reader = BlockReader(fetch)
        while True:
            due.clear()
            await sweep(reader)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._sweep):
                    await due.wait()
