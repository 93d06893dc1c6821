"""All parts of a scheduler, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from services.scheduler.bus import Bus
from services.scheduler.census import Census
from services.scheduler.config import SchedulerConfig
from services.scheduler.inflight import Inflight
from services.scheduler.instances import Instances
from services.scheduler.lanes import LanePolicy
from services.scheduler.leader import Leader, WatchTiming
from services.scheduler.ledger import LedgerClient
from services.scheduler.moves import Mover
from services.scheduler.offers import Offers, OfferTiming
from services.scheduler.pool import PoolQueue
from services.scheduler.pools import Pools
from services.scheduler.projection import Projection
from services.scheduler.publisher import Publisher
from services.scheduler.puller import PullTiming
from services.scheduler.rebuild import Rebuilder
from services.scheduler.reconciler import Reconciler
from services.scheduler.service import LeaseService, SchedulerService
from services.scheduler.singleton import Singleton
from services.scheduler.stream import JobsStream
from services.scheduler.subjects import CANCELS
from services.scheduler.tasks import end
from workmesh.clock import Clock


class Scheduler:
    """A scheduler: offers to the instances connected to it, and projects while it has the lease for that."""

    def __init__(self, config: SchedulerConfig, channel: grpc.aio.Channel, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.bus = Bus(config.nats_url, config.instance)
        self.publisher = Publisher(self.bus, clock)
        self.stream = JobsStream(self.bus, clock, ack_wait=config.ack_wait_seconds, replicas=config.replicas)
        self._lifetime = config.lease_seconds + config.clock_allowance_seconds
        self.instances = Instances(silence=3 * config.heartbeat_seconds)
        self.inflight = Inflight(self._lifetime)
        self.mover = Mover(self.bus, self.publisher)
        self.offers = self._make_offers()
        self.pools = Pools(self.stream, self._make_queue, renewed=self.inflight.forget_messages)
        self._singleton, self.leader = self._make_leader(LedgerClient(channel, config.instance))
        self.leases = LeaseService(self.offers, self.pools, self.instances, clock)
        self.operations = SchedulerService(
            self.stream, self.pools, self.instances, self.inflight, self.leader, clock
        )
        self._leading: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> Sequence[asyncio.Task[None]]:
        """Begin, and return the tasks that the scheduler cannot do without."""
        self.bus.on_change(self.pools.connection_changed)
        self.bus.subscribe(CANCELS, self.offers.cancelled)
        await self.publisher.start()
        self._leading = asyncio.create_task(self.leader.run(), name="leader")
        census = Census(self.stream, self._config.stats_seconds)
        self._tasks = [
            self._leading,
            asyncio.create_task(self.bus.run(), name="bus"),
            asyncio.create_task(self.pools.run(), name="pools"),
            asyncio.create_task(self.offers.run(), name="offers"),
            asyncio.create_task(census.run(), name="census"),
        ]
        return self._tasks

    async def wait_ready(self) -> None:
        """Return when NATS and the ledger have answered and there is a stream."""
        await self.bus.wait_connected()
        await self._singleton.asked.wait()
        await self.pools.wait_known()

    async def drain(self) -> None:
        """Let another scheduler project, hand back what was not offered, and send the instances away."""
        if self._leading is not None:
            await end(self._leading)
        await self.leader.resign()
        await self.pools.close()
        self.leases.drain()
        await self.mover.close()

    async def close(self) -> None:
        """End at once."""
        await end(*self._tasks)
        await self.bus.close()

    def _make_offers(self) -> Offers:
        timing = OfferTiming(lifetime=self._lifetime, progress=self._config.ack_wait_seconds / 3)
        return Offers(
            self.bus,
            self._clock,
            self.instances,
            self.inflight,
            self.mover,
            timing,
            pools=lambda: self.pools,
        )

    def _make_queue(self, pool: str) -> PoolQueue:
        return PoolQueue(
            pool,
            self.bus,
            self._clock,
            self.instances,
            LanePolicy((0.0, self._config.standard_share, self._config.batch_share)),
            PullTiming(),
            admit=self.offers.admit,
            offer=self.offers.offer,
            broken=self.pools.broken,
        )

    def _make_leader(self, ledger: LedgerClient) -> tuple[Singleton, Leader]:
        config, clock = self._config, self._clock
        singleton = Singleton(ledger, clock, config.singleton_seconds)
        projection = Projection(
            ledger,
            self.bus,
            self.publisher,
            clock,
            cursor_seconds=config.cursor_seconds,
            pool_seen=self.pools.see,
        )
        rebuilder = Rebuilder(ledger, self.stream, self.publisher, self.pools, singleton, clock)
        reconciler = Reconciler(
            ledger,
            self.stream,
            self.publisher,
            clock,
            ack_wait=config.ack_wait_seconds,
            holds=self.offers.holds,
        )
        timing = WatchTiming(check=config.storage_check_seconds, stall=config.stall_seconds)
        leader = Leader(
            self.bus,
            singleton,
            ledger,
            self.stream,
            self.publisher,
            self.pools,
            projection,
            rebuilder,
            reconciler,
            clock,
            timing,
        )
        return singleton, leader
