"""Tells the ledger's other processes that blocks were committed."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import asyncpg

from services.ledger.database import BLOCKS_CHANNEL, is_outage
from workmesh.ledger.v1.block_pb2 import Block

logger = logging.getLogger(__name__)

# A notification is a transaction; losing one delays others by their sweep, so it need not reach the disk.
_NOTIFY: Final = "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_PACE: Final = 0.01


class Notifier:
    """Sends one NOTIFY for all blocks committed since the last, at most one in 10 ms, the first at once."""

    def __init__(self, pool: asyncpg.Pool, instance: str) -> None:
        self._pool = pool
        self._instance = instance
        self._due = asyncio.Event()

    def committed(self, block: Block) -> None:
        """Have the others told."""
        self._due.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._pool.execute(_NOTIFY, BLOCKS_CHANNEL, self._instance)
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("others were not notified of blocks", extra={"action": "notify_failed"})
            await asyncio.sleep(_PACE)
