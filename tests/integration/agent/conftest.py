"""An agent process in the test's own loop, among test peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from services.agent.config import AgentConfig
from services.agent.process import AgentProcess
from tests.integration.agent.peers import Site
from workmesh.clock import SystemClock
from workmesh.sdk.definition import Definition
from workmesh.sdk.registry import Registry
from workmesh.telemetry import Telemetry

Start = Callable[..., Awaitable[AgentProcess]]


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(lease_seconds=10.0)
    await site.start()
    yield site
    await site.stop()


@pytest.fixture
async def start(site: Site) -> AsyncIterator[Start]:
    """Starts an agent with handlers given by name, connected and ready for offers."""
    async with AsyncExitStack() as stack:

        async def begin(handlers: dict[str, Any], **settings: Any) -> AgentProcess:
            definitions = [
                each if isinstance(each, Definition) else Definition(name=name, function=each)
                for name, each in handlers.items()
            ]
            settings = {"slots": 4, "lease_seconds": site.ledger.lease_seconds, **settings}
            config = AgentConfig(
                handlers=("none",),
                instance="agent-1",
                ledger_address=site.address,
                scheduler_address=site.address,
                toolhub_address=site.address,
                heartbeat_seconds=0.2,
                **settings,
            )
            process = AgentProcess(config, Registry(definitions), SystemClock(), Telemetry(), site.ended.set)
            stack.push_async_callback(process.close)
            await process.start("127.0.0.1:1")
            await site.scheduler.connected()
            return process

        yield begin
