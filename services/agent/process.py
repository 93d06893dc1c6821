"""The parts of an agent process, wired together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.agent.config import AgentConfig
from services.agent.definitions import apply_definitions
from services.agent.instance import Identity, Instance
from services.agent.keeper import LeaseKeeper
from services.agent.ledger import Ledger
from services.agent.scheduler import SchedulerLink
from services.agent.tools import ToolStream
from workmesh.clock import Clock
from workmesh.rpc.client import open_channel, open_stream_channel
from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceStub
from workmesh.sdk.registry import Registry
from workmesh.telemetry import Telemetry
from workmesh.toolhub.v1.tool_service_pb2_grpc import ToolServiceStub


class AgentProcess:
    """An instance with its streams and batches. `end` is called when it was told to drain and has drained."""

    def __init__(
        self,
        config: AgentConfig,
        registry: Registry,
        clock: Clock,
        spans: Telemetry,
        end: Callable[[], None],
    ) -> None:
        self._config = config
        self._end = end
        self._registry = registry
        self._channels = [
            open_channel(config.ledger_address),
            open_stream_channel(config.scheduler_address),
            open_stream_channel(config.toolhub_address),
        ]
        self.ledger = Ledger(
            self._channels[0],
            instance=config.instance,
            timeout=config.ledger_timeout_seconds,
            lease_seconds=config.lease_seconds,
            clock=clock,
        )
        self._link = SchedulerLink(LeaseServiceStub(self._channels[1]), clock, config.heartbeat_seconds)
        self._tools = ToolStream(ToolServiceStub(self._channels[2]), clock, config.toolhub_patience_seconds)
        identity = Identity(config.instance, config.pools, config.slots)
        self.instance = Instance(
            identity, self.ledger, self._tools, self._link, clock, spans, self.begin_drain
        )
        self._keeper = LeaseKeeper(self.instance, self.ledger, config.lease_seconds, clock)
        self._tasks: list[asyncio.Task[None]] = []
        self._drain_task: asyncio.Task[None] | None = None
        self._ending = False

    async def start(self, address: str) -> list[asyncio.Task[None]]:
        """Apply the definitions, connect, and return the tasks that must not end; `address` is host:port."""
        self.instance.introduce(await apply_definitions(self.ledger, self._registry), address)
        self._tasks = [
            asyncio.create_task(self._tools.run(), name="tools"),
            asyncio.create_task(self._keeper.run(), name="keeper"),
            asyncio.create_task(self._link.run(self.instance), name="link"),
        ]
        return self._tasks

    def begin_drain(self) -> None:
        """Drain in the background, then let the process end. A signal meanwhile takes over."""
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._drain_and_end(), name="drain")

    async def _drain_and_end(self) -> None:
        await self.instance.drain(self._config.grace_seconds)
        if not self._ending:
            self._end()

    async def drain(self) -> None:
        """Take nothing more, end or hand back what runs, and tell the scheduler: the process ends."""
        self._ending = True
        await self.instance.drain(self._config.grace_seconds)
        await self._link.close()

    async def close(self) -> None:
        """Cut off whatever still runs."""
        self.instance.cut_off()
        tasks = [*self._tasks, *([self._drain_task] if self._drain_task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.ledger.close()
        for channel in self._channels:
            await channel.close()
