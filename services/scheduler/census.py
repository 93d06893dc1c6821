"""Counts the queues for the metrics."""

from __future__ import annotations

import asyncio
import logging

from services.scheduler.figures import DELAYED, DELIVERED, WAITING
from services.scheduler.stream import JobsStream, StreamFault
from services.scheduler.subjects import LANE_NAMES

_logger = logging.getLogger(__name__)


class Census:
    """Sets the gauges of all queues every so many seconds."""

    def __init__(self, stream: JobsStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds

    async def run(self) -> None:
        """Count for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.count()
            except StreamFault as error:
                _logger.info(
                    "the queues cannot be counted",
                    extra={"action": "count_failed", "error": f"{type(error).__name__}: {error}"},
                )

    async def count(self) -> None:
        """Count once."""
        count = await self._stream.count()
        DELAYED.set(count.delayed)
        for each in count.lanes:
            WAITING.labels(each.pool, LANE_NAMES[each.lane]).set(each.waiting)
            DELIVERED.labels(each.pool, LANE_NAMES[each.lane]).set(each.delivered)
