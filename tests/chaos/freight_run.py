"""Freight work for a mesh that is being broken: 2,000 jobs in flight, judged by what the systems recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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

DOCUMENTS: Final = 2_000
"""With a tenth as many bookings: 2,000 jobs and more are in flight when the mischief happens."""
MISCHIEF_SHARES: Final = (0.04,)
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
    in_flight: int
    """Jobs that had not ended when the first mischief happened."""


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
    """All jobs submitted at once; at shares of them done a piece of mischief each; then every job's end."""

    def __init__(
        self,
        stack: Stack,
        directory: Path,
        mischief: Sequence[Mischief],
        *,
        documents: int = DOCUMENTS,
        shares: Sequence[float] = MISCHIEF_SHARES,
    ) -> None:
        self._stack = stack
        self._directory = directory
        self._mischief = tuple(zip(shares, mischief, strict=True))
        self._scenario: Scenario = plan(Settings(documents, seed=1))
        self._ended = 0
        self._progress = asyncio.Event()

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
        in_flight: list[int] = []
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.run())
            await stream.all_accepted.wait()
            for share, mischief in self._mischief:
                await self._until(share)
                in_flight.append(len(cases) - self._ended)
                await mischief(self._stack)
        return in_flight[0]

    async def _until(self, share: float) -> None:
        while self._ended < share * len(self._scenario.cases):
            self._progress.clear()
            await self._progress.wait()

    def _on_end(self, job: JobSubmission, end: Job) -> None:
        self._ended += 1
        self._progress.set()
