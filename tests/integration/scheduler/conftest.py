"""A NATS server, a scripted ledger and schedulers in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from services.scheduler.assembly import Scheduler
from services.scheduler.config import SchedulerConfig
from services.scheduler.service import LEASE_SERVICE, SCHEDULER_SERVICE
from services.scheduler.tasks import end
from tests.integration.scheduler.instances import TestInstance
from tests.integration.scheduler.nats_server import NatsServer
from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh.clock import SystemClock
from workmesh.common.v1.job_pb2 import LANE_STANDARD, Lane
from workmesh.ledger.v1.event_pb2 import Routing
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings
from workmesh.scheduler.v1.lease_service_pb2_grpc import add_LeaseServiceServicer_to_server
from workmesh.scheduler.v1.scheduler_service_pb2 import GetQueueStatsRequest, GetQueueStatsResponse
from workmesh.scheduler.v1.scheduler_service_pb2_grpc import (
    SchedulerServiceStub,
    add_SchedulerServiceServicer_to_server,
)

if TYPE_CHECKING:
    from workmesh.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceAsyncStub

CONFIG = SchedulerConfig(
    singleton_seconds=1.0,
    cursor_seconds=0.05,
    storage_check_seconds=0.3,
    stall_seconds=1.0,
    lease_seconds=1.0,
    clock_allowance_seconds=0.2,
    heartbeat_seconds=0.2,
    ack_wait_seconds=2.0,
)


class RunningScheduler:
    """A scheduler and its server."""

    def __init__(self, config: SchedulerConfig, ledger_address: str) -> None:
        self.config = config
        self.channel = open_channel(ledger_address)
        self.scheduler = Scheduler(config, self.channel, SystemClock())
        self.server = MeshServer(ServerSettings("scheduler", grace=0.2))
        self.server.add(add_LeaseServiceServicer_to_server, self.scheduler.leases, LEASE_SERVICE)
        self.server.add(add_SchedulerServiceServicer_to_server, self.scheduler.operations, SCHEDULER_SERVICE)
        self.address = ""
        self.own: grpc.aio.Channel | None = None

    async def start(self, seconds: float = 20.0) -> None:
        await self.scheduler.start()
        self.address = f"127.0.0.1:{await self.server.start()}"
        async with asyncio.timeout(seconds):
            await self.scheduler.wait_ready()
        self.server.set_serving(True)
        self.own = open_channel(self.address)

    async def stats(self, pool: str = "") -> GetQueueStatsResponse:
        return await self.operations.GetQueueStats(GetQueueStatsRequest(pool=pool), timeout=5)

    async def queued(self) -> int:
        """Return how many messages there are, delivered or not, delayed or not."""
        stats = await self.stats()
        return stats.delayed_count + sum(each.waiting_count + each.delivered_count for each in stats.queues)

    async def has_queued(self, count: int) -> bool:
        return await self.queued() == count

    async def is_empty(self) -> bool:
        return await self.queued() == 0

    @property
    def operations(self) -> SchedulerServiceAsyncStub:
        assert self.own is not None
        return SchedulerServiceStub(self.own)

    async def stop(self) -> None:
        """End in order."""
        await self.scheduler.drain()
        await self.kill()

    async def kill(self) -> None:
        """End without handing anything back."""
        await end(*self.scheduler._tasks)
        await self.server.stop(0)
        await self.scheduler.close()
        if self.own is not None:
            await self.own.close()
        await self.channel.close()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def ledger() -> AsyncIterator[ScriptedLedger]:
    scripted = ScriptedLedger()  # type: ignore[abstract]
    yield scripted
    await scripted.stop()


StartScheduler = Callable[..., Awaitable[RunningScheduler]]


@pytest.fixture
async def start_scheduler(nats: NatsServer, ledger: ScriptedLedger) -> AsyncIterator[StartScheduler]:
    """A function that starts one more scheduler; keywords change its settings."""
    address = await ledger.start()
    started: list[RunningScheduler] = []

    async def start(instance: str = "scheduler-1", **changes: object) -> RunningScheduler:
        config = replace(CONFIG, instance=instance, nats_url=nats.url, **changes)  # type: ignore[arg-type]
        running = RunningScheduler(config, address)
        started.append(running)
        await running.start()
        return running

    yield start
    for running in started:
        await running.kill()


@pytest.fixture
async def join(ledger: ScriptedLedger) -> AsyncIterator[Callable[..., Awaitable[TestInstance]]]:
    """A function that connects one more instance to a scheduler."""
    joined: list[TestInstance] = []

    async def connect(scheduler: RunningScheduler, **options: object) -> TestInstance:
        instance = TestInstance(ledger, **options)  # type: ignore[arg-type]
        joined.append(instance)
        await instance.connect(scheduler.address)
        return instance

    yield connect
    for instance in joined:
        await instance.leave()


Join = Callable[..., Awaitable[TestInstance]]


def routing(
    lane: Lane.ValueType = LANE_STANDARD,
    *,
    agent: str = "worker",
    pool: str = "default",
    seconds: float = 0.0,
) -> Routing:
    """Return where a job goes, and when: so many seconds from now."""
    run_time = round((time.time() + seconds) * 1e6) if seconds else 0
    return Routing(
        pool=pool, lane=lane, agent=agent, version=1, fairness_key="tester", run_time_micros=run_time
    )


async def until(reached: Callable[[], bool | Awaitable[bool]], seconds: float = 20.0) -> None:
    """Return once something is so that no event tells of; TimeoutError if it never is."""
    async with asyncio.timeout(seconds):
        while True:
            answer = reached()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)
