"""Makes the stream anew and fills it from the ledger."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from services.scheduler.figures import REBUILDS
from services.scheduler.ledger import Cursor, LedgerClient, by_chain
from services.scheduler.pools import Pools
from services.scheduler.publisher import Publisher
from services.scheduler.routing import Router
from services.scheduler.singleton import Singleton, Tenure
from services.scheduler.stream import JobsStream
from workmesh.clock import Clock, micros
from workmesh.ledger.v1.block_pb2 import Position

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild made: the cursor to follow on from, and how many jobs were published."""

    cursor: Cursor
    jobs: int


class Rebuilder:
    """Throws the queues away and fills them from the ledger's live jobs, under a new generation.

    The cursor is stored last: a crash before that leaves a stream that no cursor matches, so that the next
    holder begins afresh. It is stored at the chain heads that were read before the first job, so that what
    was committed meanwhile is projected once more rather than missed.
    """

    def __init__(
        self,
        ledger: LedgerClient,
        stream: JobsStream,
        publisher: Publisher,
        pools: Pools,
        singleton: Singleton,
        clock: Clock,
    ) -> None:
        self._ledger = ledger
        self._stream = stream
        self._publisher = publisher
        self._pools = pools
        self._singleton = singleton
        self._clock = clock

    async def rebuild(self, tenure: Tenure, cause: str) -> Rebuilt:
        """Rebuild and return the cursor; raises TenureLost, MeshError, and what StreamFault lists."""
        _logger.warning("the queues are made anew", extra={"action": "rebuild_started", "cause": cause})
        # A holder that was frozen must not delete what its successor made.
        await self._singleton.renew(tenure)
        generation = await self._stream.create()
        self._pools.use(generation)
        router = Router(generation)
        positions: dict[int, Position] = {}
        count = 0
        async for heads, jobs in self._ledger.live_jobs():
            positions |= by_chain(heads)
            now = micros(self._clock.time())
            publications = [each for job in jobs if (each := router.live(job, now)) is not None]
            await self._publisher.publish(publications, identified=True)
            count += len(publications)
        cursor = Cursor(generation, positions, self._clock.time())
        await self._ledger.store_cursor(tenure.epoch, cursor)
        REBUILDS.labels(cause).inc()
        _logger.info(
            "the queues are made anew",
            extra={"action": "rebuild_finished", "jobs": count, "generation": generation},
        )
        return Rebuilt(cursor, count)
