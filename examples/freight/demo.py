"""`make demo`: freight work through the whole mesh on this machine, while its processes are killed.

Environment: `N` documents (400; bookings are a tenth), `SEED` (1). Exits with 0 when the checker finds
nothing, 1 when it does or the run broke off, 2 when the mesh cannot run here, 130 when interrupted.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

import grpc
import uvloop
from rich.console import Console

from examples.freight import checker
from examples.freight.demonstration import report
from examples.freight.demonstration.load import FreightClient, JobStream, OnEnd
from examples.freight.demonstration.progress import Display
from examples.freight.demonstration.run import Run, RunFailed
from examples.freight.demonstration.sandbox import SandboxFailed, run_sandbox
from examples.freight.demonstration.scenario import AGENTS, LEASE_SECONDS, SLOTS, Scenario, Settings, plan
from examples.freight.evidence import read_log, read_witness
from examples.freight.generator import save_cases
from workmesh.local import Stack, StackOptions
from workmesh.local.errors import StackError
from workmesh.local.home import home_directory

PROFILE: Final = "demo"
CLIENT: Final = "freight"
ACK_WAIT_SECONDS: Final = 5.0
INTEGRATIONS: Final = Path(__file__).with_name("integrations.yaml")
_PREFIX: Final = "freight-"


class Killable:
    """The mesh as a run sees it: a client at the edge, and a stack whose processes can be killed."""

    def __init__(self, client: FreightClient, stack: Stack) -> None:
        self._client = client
        self._stack = stack

    def stream(self, capacity: int, on_end: OnEnd) -> JobStream:
        return self._client.stream(capacity, on_end)

    def kill(self, process: str) -> int:
        return self._stack.kill(process, signal.SIGKILL)


class Demonstration:
    """One demonstration from the first process to the verdict; `directory` keeps its files."""

    def __init__(self, settings: Settings, directory: Path, console: Console) -> None:
        self._settings = settings
        self.directory = directory
        self._console = console
        self._display = Display(console)
        self.logs = home_directory() / PROFILE / "logs"

    async def go(self) -> int:
        """Runs it all; returns the exit code."""
        scenario = plan(self._settings)
        save_cases(self.directory / "expected.jsonl", scenario.cases)
        began = time.monotonic()
        log = self.directory / "sandbox.log"
        with self._display:
            async with run_sandbox(self.directory / "record", log, self._settings.seed) as url:
                self._display.note("the systems serve; starting the mesh")
                async with Stack(profile=PROFILE, options=stack_options(url)) as stack:
                    remove_older(self.directory)
                    self._display.note(f"the mesh serves at {stack.edge_address}; logs: {stack.profile.logs}")
                    killed, ended = await self._work(scenario, stack)
        return self.judge(scenario, killed, ended, time.monotonic() - began)

    async def _work(self, scenario: Scenario, stack: Stack) -> tuple[list[str], bool]:
        client = FreightClient(
            stack.edge_address, stack.token(CLIENT, ["auditor"]), Random(f"client/{self._settings.seed}")
        )
        run = Run(scenario, self._settings.seed, Killable(client, stack), self._display.follow)
        ended = True
        try:
            async with asyncio.timeout(time_limit(len(scenario.cases))):
                await run.go()
        except TimeoutError:
            ended = False
            self._display.note("time is up: not every job has ended")
        try:
            await client.export(self.directory / "log.export")
        finally:
            await client.close()
        return run.killed, ended

    def judge(self, scenario: Scenario, killed: list[str], ended: bool, seconds: float) -> int:
        """Prints the report and what the checker finds; returns the exit code."""
        witness = read_witness(self.directory / "record")
        log = read_log(self.directory / "log.export")
        findings = checker.check(scenario.cases, witness, log)
        report.print_report(self._console, scenario.cases, witness, log, killed, seconds)
        report.print_verdict(self._console, findings)
        return 0 if ended and not findings else 1


def stack_options(sandbox_url: str) -> StackOptions:
    """Returns the mesh of the demonstration: 4 instances of 4 slots, 3 s leases."""
    return StackOptions(
        agents=AGENTS,
        slots=SLOTS,
        lease_seconds=LEASE_SECONDS,
        ack_wait_seconds=ACK_WAIT_SECONDS,
        handlers=("examples.freight.agents",),
        integrations=INTEGRATIONS,
        environment={"toolhub": {"FREIGHT_SANDBOX_URL": sandbox_url}},
        wipe=True,
    )


def time_limit(jobs: int) -> float:
    """Returns how many seconds so many jobs may take: several times what they need."""
    return 120.0 + 0.3 * jobs


def remove_older(directory: Path) -> None:
    """Deletes the files of earlier demonstrations; the profile's lock makes this the only one."""
    for other in directory.parent.glob(f"{_PREFIX}*"):
        if other != directory:
            shutil.rmtree(other, ignore_errors=True)


def make_directory() -> Path:
    """Makes the directory for this demonstration's files."""
    parent = home_directory() / PROFILE
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


async def main() -> int:
    """Runs a demonstration as the environment asks; returns the exit code."""
    console = Console()
    try:
        settings = Settings.from_environment(os.environ)
    except ValueError as error:
        console.print(f"demo: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    demonstration = Demonstration(settings, make_directory(), console)
    with cancelled_by(signal.SIGTERM):
        code = await _run(demonstration, console)
    if code:
        console.print(
            f"logs: {demonstration.logs}\nfiles: {demonstration.directory}", highlight=False, soft_wrap=True
        )
    return code


async def _run(demonstration: Demonstration, console: Console) -> int:
    try:
        return await demonstration.go()
    except (StackError, SandboxFailed) as error:
        console.print(f"demo: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    except (RunFailed, grpc.aio.AioRpcError) as error:
        console.print(f"demo: the run broke off: {error}", highlight=False, markup=False, soft_wrap=True)
        return 1


@contextmanager
def cancelled_by(number: signal.Signals) -> Iterator[None]:
    """Lets a signal cancel the current task, as Ctrl-C does: everything started is then stopped in order."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(number)


if __name__ == "__main__":
    try:
        sys.exit(uvloop.run(main()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
