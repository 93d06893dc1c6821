"""One supervised process: started, watched until ready, restarted when it dies, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from workmesh.clock import Clock
from workmesh.local.accounts import Account
from workmesh.local.errors import StartError
from workmesh.local.events import EventLog, Happening
from workmesh.local.record import identity
from workmesh.local.restart import RestartPolicy

LAUNCHER = Path(__file__).with_name("launch.py")
LOG_BYTES = 32 << 20
PROBE_PAUSE = 0.02
# Dying this often before it was ever ready is a fault of its configuration: do not hide it by retrying.
HOPELESS = 4

Probe = Callable[[], Awaitable[str | None]]


class State(StrEnum):
    """Where an instance is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    WAITING = "waiting"
    """Dead, to be started again after a delay."""
    STOPPING = "stopping"


@dataclass(frozen=True)
class Plan:
    """How to run one process."""

    name: str
    service: str
    command: Sequence[str]
    environment: Mapping[str, str]
    probe: Probe
    """Says why the process is not ready yet; None when it is."""
    log: Path
    account: Account | None = None
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 15.0
    death_signal: int = signal.SIGKILL
    """What the process gets when the runner dies; for PostgreSQL one that ends its children too."""
    address: str = ""
    """host:port of its gRPC server, where it has one."""


@dataclass
class Life:
    """One process of an instance, from its start to its exit."""

    process: asyncio.subprocess.Process
    identity: str
    ready_at: float | None = None
    doomed: bool = field(default=False)
    """A fatal signal was sent; it counts as not ready from then on."""


class Instance:
    """Keeps one process of a plan alive. Belongs to one event loop."""

    def __init__(
        self,
        plan: Plan,
        *,
        policy: RestartPolicy,
        clock: Clock,
        events: EventLog,
        pin: bool,
        changed: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.restarts = 0
        self.state = State.STOPPED
        self._policy = policy
        self._clock = clock
        self._events = events
        self._pin = pin
        self._tell = changed
        self._life: Life | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._why = "not started"

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.plan.name

    @property
    def pid(self) -> int:
        """The process's id; 0 where none lives."""
        process = self._life.process if self._life else None
        return process.pid if process and process.returncode is None else 0

    @property
    def identity(self) -> str:
        """What tells the process from others with its id; empty where none lives."""
        return self._life.identity if self._life and self.pid else ""

    def start(self) -> None:
        """Begin keeping a process alive."""
        if self._keeper is None or self._keeper.done():
            self._enter(State.STARTING)
            self._keeper = asyncio.create_task(self._run(), name=f"keep {self.name}")

    async def wait_ready(self) -> None:
        """Wait until a process that no fatal signal was sent to is ready.

        Raises:
            StartError: it keeps dying before it ever was, or the instance is stopped.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self.state in (State.READY, State.STOPPED))
        if self.state is State.STOPPED:
            raise StartError(f"{self.name} is not running: {self._why}\n{self.log_tail()}")

    def signal(self, number: int) -> int:
        """Send the signal to the process; answers its id, 0 where none lives."""
        pid = self.pid
        if not pid:
            return 0
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT):
            self._doom()
        os.kill(pid, number)
        self._events.add(Happening.SIGNALLED, self.name, pid, signal.Signals(number).name)
        return pid

    async def stop(self) -> None:
        """End the process, politely first, and keep none alive any more."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        self._enter(State.STOPPING)
        await cancelled(keeper)
        if self._life is not None:
            await self._end(self._life.process)
        self._life = None
        self._why = "stopped"
        await self._become(State.STOPPED)

    def why_not_ready(self) -> str:
        """What the last probe or exit said, for messages."""
        return self._why

    def log_tail(self, lines: int = 15) -> str:
        """The end of the process's log."""
        if not self.plan.log.exists():
            return ""
        with self.plan.log.open("rb") as file:
            file.seek(max(0, self.plan.log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def _run(self) -> None:
        try:
            await self._keep()
        except Exception as error:
            self._why = f"{type(error).__name__}: {error}"
            await self._become(State.STOPPED)
            raise

    async def _keep(self) -> None:
        failures = 0
        was_ready = False
        while True:
            await self._become(State.STARTING)
            life = await self._spawn()
            await self._watch(life)
            was_ready = was_ready or life.ready_at is not None
            ready_for = None if life.ready_at is None else self._clock.monotonic() - life.ready_at
            failures = self._policy.failures(failures, ready_for)
            self._why = f"{describe_exit(life.process.returncode or 0)}, {self._why}"
            if not was_ready and failures >= HOPELESS:
                await self._become(State.STOPPED)
                return
            await self._become(State.WAITING)
            await asyncio.sleep(self._policy.delay(failures))
            self.restarts += 1

    async def _spawn(self) -> Life:
        plan = self.plan
        rotate(plan.log)
        account = f"{plan.account.uid}:{plan.account.gid}" if plan.account else "-"
        death_signal = int(plan.death_signal) if self._pin else 0
        with plan.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-I", "-S", str(LAUNCHER), str(os.getpid()), str(death_signal), account),
                *plan.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(plan.environment),
                # A group of its own: Ctrl-C in a terminal reaches the runner alone, which stops in order.
                start_new_session=True,
            )
        self._life = Life(process, identity(process.pid) or "")
        self._events.add(Happening.STARTED, self.name, process.pid)
        self._tell()
        return self._life

    async def _watch(self, life: Life) -> None:
        """Probe until ready, then wait for the exit."""
        prober = asyncio.create_task(self._await_ready(life), name=f"probe {self.name}")
        try:
            code = await life.process.wait()
        finally:
            await cancelled(prober)
        self._kill_group(life.process.pid)  # what it started must not outlive it
        self._life = None
        self._events.add(Happening.EXITED, self.name, life.process.pid, describe_exit(code))

    async def _await_ready(self, life: Life) -> None:
        pause = PROBE_PAUSE
        while (why := await self.plan.probe()) is not None:
            self._why = why
            await asyncio.sleep(pause)
            pause = min(pause * 1.2, 0.2)
        if life.doomed:
            return
        life.ready_at = self._clock.monotonic()
        self._why = "ready until then"
        self._events.add(Happening.READY, self.name, life.process.pid)
        await self._become(State.READY)

    def _doom(self) -> None:
        if self._life is not None:
            self._life.doomed = True
        if self.state is State.READY:
            self._enter(State.STARTING)

    def _enter(self, state: State) -> None:
        self.state = state
        self._tell()

    async def _become(self, state: State) -> None:
        async with self._changed:
            self._enter(state)
            self._changed.notify_all()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            # Not process.send_signal: that may reap the child, and its exit code would be lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, self.plan.stop_signal)
                # One that was frozen could not hear the first signal.
                os.kill(process.pid, signal.SIGCONT)
            try:
                await asyncio.wait_for(process.wait(), self.plan.stop_seconds)
            except TimeoutError:
                self._kill_group(process.pid)
                await process.wait()
        self._kill_group(process.pid)
        self._events.add(Happening.STOPPED, self.name, process.pid, describe_exit(process.returncode or 0))

    @staticmethod
    def _kill_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


async def cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task of one's own and wait for its end; its error, if it had one, is raised."""
    task.cancel()
    # Not `await task`: that could not tell the task's cancellation from the caller's.
    await asyncio.wait((task,))
    if not task.cancelled() and (error := task.exception()):
        raise error


def describe_exit(code: int) -> str:
    """A return code in words."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def rotate(log: Path) -> None:
    """Set a log aside that has grown large, so that two generations bound its size."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))
