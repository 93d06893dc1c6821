"""Whether this process can serve: PostgreSQL answers, and at least one writer owns a chain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from services.ledger.database import is_outage

logger = logging.getLogger(__name__)

_PERIOD: Final = 1.0
_ANSWER_SECONDS: Final = 2.0


class Vitals:
    """Asks the database each second, looks at the writers whenever theirs changed, and tells of changes."""

    def __init__(
        self, pool: asyncpg.Pool, owning: Callable[[], int], set_serving: Callable[[bool], None]
    ) -> None:
        self._pool = pool
        self._owning = owning
        self._set_serving = set_serving
        self._answers = True
        self._serving = True

    async def run(self) -> None:
        """Watch until cancelled; the process serves when this begins."""
        while True:
            self._answers = await self._ask()
            self.look()
            await asyncio.sleep(_PERIOD)

    def look(self) -> None:
        """Take notice that the writers may have changed."""
        serving = self._answers and self._owning() > 0
        self._set_serving(serving)
        if serving != self._serving:
            self._serving = serving
            logger.warning(
                "serving again" if serving else "not serving: the database is away",
                extra={"action": "serving_changed", "serving": serving},
            )

    async def _ask(self) -> bool:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._pool.fetchval("select 1")
        except Exception as error:
            if not is_outage(error):
                raise
            return False
        return True
