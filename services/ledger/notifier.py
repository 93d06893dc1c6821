"""Tells the ledger's other processes that blocks were committed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

import asyncpg

from services.ledger import statements
from services.ledger.chains import LOCK_CLASS
from services.ledger.database import BLOCKS_CHANNEL, is_outage
from workmesh.ledger.v1.block_pb2 import Block

logger = logging.getLogger(__name__)

# A notification is a transaction; losing one delays others by their sweep, so it need not reach the disk.
_NOTIFY: Final = "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_NEIGHBOURS: Final = statements.load("chains")["neighbours"]
_PACE: Final = 0.01
_LOOK: Final = 1.0


class Notifier:
    """Sends one NOTIFY for all blocks committed since the last, at most one in 10 ms, the first at once.

    None is sent while no other process owns a chain, which is looked up once a second at most: a process
    that has just begun reads the heads each second anyway. `backends` names this process's own sessions;
    without it every block is told of.
    """

    def __init__(
        self, pool: asyncpg.Pool, instance: str, backends: Callable[[], Collection[int]] | None = None
    ) -> None:
        self._pool = pool
        self._instance = instance
        self._backends = backends
        self._due = asyncio.Event()
        self._looked_at = float("-inf")
        self._accompanied = backends is None

    def committed(self, block: Block) -> None:
        """Have the others told."""
        self._due.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._tell()
            except Exception as error:
                if not is_outage(error):
                    raise
                logger.warning("others were not notified of blocks", extra={"action": "notify_failed"})
            await asyncio.sleep(_PACE if self._accompanied else _LOOK)

    async def _tell(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._backends is not None and now - self._looked_at >= _LOOK:
            own = list(self._backends())
            self._accompanied = await self._pool.fetchval(_NEIGHBOURS, LOCK_CLASS, own)
            self._looked_at = now
        if self._accompanied:
            await self._pool.execute(_NOTIFY, BLOCKS_CHANNEL, self._instance)
