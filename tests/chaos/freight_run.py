"""Freight work for a mesh that is being broken: 2,000 jobs in flight, judged by what the systems recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from examples.freight import checker
from examples.freight.demonstration.load import FreightClient
from examples.freight.demonstration.sandbox import run_sandbox
from examples.freight.demonstration.scenario import Scenario, Settings, plan, submission
from examples.freight.evidence import Log, read_log, read_witness
from workmesh.gateway.v1.job_pb2 import Job, JobSubmission
from workmesh.local import Stack, StackOptions

DOCUMENTS: Final = 1_900
"""With a tenth as many bookings: more than 2,000 jobs are in flight when the mischief happens."""
MISCHIEF_SHARE: Final = 0.04
LEASE_SECONDS: Final = 3.0
ACK_WAIT_SECONDS: Final = 5.0
LATENCY_SCALE: Final = 0.02
RUN_SECONDS: Final = 150.0
INTEGRATIONS: Final = Path("examples/freight/integrations.yaml").resolve()

# How urgent bookings are says nothing while processes die.
IGNORED_RULES: Final = frozenset({"bookings_not_urgent"})

Mischief = Callable[[Stack], Awaitable[None]]


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    findings: list[checker.Finding]
    log: Log
    in_flight_at_mischief: int


@asynccontextmanager
async def freight_mesh(directory: Path, *, agents: int = 3) -> AsyncIterator[Stack]:
    """Yields a mesh of its own that works against a quick sandbox, whose record is in the directory."""
    async with run_sandbox(directory / "record", directory / "sandbox.log", 1, LATENCY_SCALE) as url:
        options = StackOptions(
            agents=agents,
            slots=32,
            lease_seconds=LEASE_SECONDS,
            ack_wait_seconds=ACK_WAIT_SECONDS,
            handlers=("examples.freight.agents",),
            integrations=INTEGRATIONS,
            environment={"toolhub": {"FREIGHT_SANDBOX_URL": url}},
            log_level="warning",
        )
        async with Stack(options=options) as stack:
            yield stack


class FreightRun:
    """All jobs submitted at once; at a share of them done the mischief; then every job's end."""

    def __init__(self, stack: Stack, directory: Path, mischief: Mischief, documents: int = DOCUMENTS) -> None:
        self._stack = stack
        self._directory = directory
        self._mischief = mischief
        self._scenario: Scenario = plan(Settings(documents, seed=1))
        self._ended = 0
        self._due = asyncio.Event()

    async def go(self) -> Outcome:
        """Run, export, judge."""
        token = self._stack.token("freight", ["auditor"], seconds=3_600)
        client = FreightClient(self._stack.edge_address, token, Random(1))
        try:
            async with asyncio.timeout(RUN_SECONDS):
                in_flight = await self._work(client)
            await client.export(self._directory / "log.export")
        finally:
            await client.close()
        log = read_log(self._directory / "log.export")
        found = checker.check(self._scenario.cases, read_witness(self._directory / "record"), log)
        return Outcome([each for each in found if each.rule not in IGNORED_RULES], log, in_flight)

    async def _work(self, client: FreightClient) -> int:
        cases = self._scenario.cases
        stream = client.stream(len(cases), self._on_end)
        stream.submit([submission(case, seed=1) for case in cases])
        stream.finish()
        running = asyncio.create_task(stream.run())
        try:
            await stream.all_accepted.wait()
            await self._due.wait()
            in_flight = len(cases) - self._ended
            await self._mischief(self._stack)
            await running
        finally:
            running.cancel()
        return in_flight

    def _on_end(self, job: JobSubmission, end: Job) -> None:
        self._ended += 1
        if self._ended >= MISCHIEF_SHARE * len(self._scenario.cases):
            self._due.set()
