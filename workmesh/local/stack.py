"""The stack as tests, the demonstration and benchmarks use it."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from workmesh import keys
from workmesh.local import edge
from workmesh.local.core import StackCore
from workmesh.local.errors import StackError
from workmesh.local.events import Happening, StackEvent
from workmesh.local.home import Profile, home_directory, open_profile
from workmesh.local.instance import Instance
from workmesh.local.loop import LoopThread
from workmesh.local.options import StackOptions
from workmesh.local.services import select
from workmesh.local.site import Site
from workmesh.local.stores import nats, postgres, valkey

TOKEN_SECONDS = 3600.0
Result = TypeVar("Result")


class Stack:
    """One machine's mesh: `async with Stack(profile="demo") as stack: ...`.

    Without a profile it lives in a temporary folder that goes when it stops. `only` starts some of
    the services, e.g. `only=("postgres", "ledger")`. The names that methods take are those of
    processes ("ledger", "agent-2"); a service's name means its first process. What dies is started
    again. May be used from any event loop.
    """

    def __init__(
        self,
        profile: str | None = None,
        *,
        options: StackOptions | None = None,
        only: Sequence[str] | None = None,
        home: Path | None = None,
    ) -> None:
        self.options = options or StackOptions()
        self._services = select(only)
        self._profile_name = profile
        self._home = home or home_directory()
        self._running: tuple[StackCore, LoopThread] | None = None

    async def start(self) -> None:
        """Bring it up.

        Raises:
            StackError: PreflightError, AlreadyRunningError or StartError; nothing is left running.
        """
        profile = open_profile(self._profile_name, self._home)
        core = StackCore(profile, self.options, self._services)
        thread = LoopThread(f"stack {profile.name}")
        thread.start()
        try:
            await thread.call(core.start())
        except BaseException:
            await thread.close()
            await self._remove_temporary(core)
            raise
        self._running = core, thread

    async def stop(self) -> None:
        """Stop everything in order; harmless when it does not run."""
        if self._running is None:
            return
        core, thread = self._running
        self._running = None
        try:
            await thread.call(core.stop())
        finally:
            await thread.close()
        await self._remove_temporary(core)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # Where things are

    @property
    def profile(self) -> Profile:
        """The profile: its folder, logs, keys and data."""
        return self._core.profile

    @property
    def site(self) -> Site:
        """Paths, ports and programs."""
        return self._core.site

    @property
    def home(self) -> Path:
        """The profile's folder."""
        return self._core.profile.path

    @property
    def keys_directory(self) -> Path:
        """Keys and passwords."""
        return self._core.profile.keys

    @property
    def edge_address(self) -> str:
        """host:port of Envoy."""
        return f"{edge.HOST}:{self.site.edge_port}"

    def address(self, service: str) -> str:
        """The gRPC addresses of a service's processes, a comma list, past Envoy."""
        return self._core.roster.addresses(service)

    @property
    def ledger_address(self) -> str:
        """The ledger's address."""
        return self.address("ledger")

    @property
    def scheduler_address(self) -> str:
        """The scheduler's address."""
        return self.address("scheduler")

    @property
    def toolhub_address(self) -> str:
        """toolhub's address."""
        return self.address("toolhub")

    @property
    def gateway_address(self) -> str:
        """The gateways' addresses, past Envoy."""
        return self.address("gateway")

    def database_url(self, role: str = postgres.ROLE) -> str:
        """The URL of the database; as `postgres` with all rights, for looking behind the ledger."""
        return postgres.database_url(self.site, role)

    def nats_url(self, user: str = "operator") -> str:
        """NATS with the credentials of `scheduler`, `gateway` or, with all rights, `operator`."""
        return nats.url(self.site, f"nats-{user}")

    def valkey_url(self, user: str = "operator") -> str:
        """Valkey with the credentials of a service or, with all rights, `operator`."""
        return valkey.url(self.site, f"valkey-{user}")

    def data_directory(self, store: str) -> Path:
        """The data of `postgres`, `nats` or `valkey`."""
        return self.site.postgres_data if store == "postgres" else self._core.profile.data / store

    def log_path(self, name: str) -> Path:
        """The log of a process; the supervisor's is `stack`."""
        return self._core.profile.logs / f"{name}.log"

    def environment(self, name: str) -> dict[str, str]:
        """The environment a process was started with."""
        return dict(self._find(name).plan.environment)

    def token(self, client: str, roles: Sequence[str] = (), *, seconds: float = TOKEN_SECONDS) -> str:
        """A token with which the client passes Envoy."""
        return keys.issue_client_token(self.keys_directory, client, roles, seconds)

    # What it does

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a process a signal, by default to end it at once; answers its id (0: none lived).

        After a fatal signal `wait_ready` waits for its successor.
        """
        return self._do(lambda: self._find(name).signal(number))

    def pause(self, name: str) -> int:
        """Freeze a process (not its children) where it stands."""
        return self.kill(name, signal.SIGSTOP)

    def resume(self, name: str) -> int:
        """Let a frozen process go on."""
        return self.kill(name, signal.SIGCONT)

    async def wait_ready(self, *names: str) -> None:
        """Wait until these processes are ready; all of them when none is named.

        Raises:
            StartError: one does not run, or not in time.
        """
        await self._call(self._core.wait_ready(names))

    async def stop_process(self, name: str) -> None:
        """Stop one process and leave it stopped until `start_process`."""
        await self._call(self._find(name).stop())

    async def start_process(self, name: str) -> None:
        """Start a stopped process and wait until it is ready."""
        await self._call(self._core.start_process(name))

    async def restart(self, name: str) -> None:
        """Stop a process politely, start it again, wait until it is ready."""
        await self.stop_process(name)
        await self.start_process(name)

    async def scale(self, service: str, count: int) -> None:
        """Start or stop processes of `agent` or `gateway` until there are `count`, and wait for them."""
        await self._call(self._core.scale(service, count))

    # What happened

    @property
    def names(self) -> tuple[str, ...]:
        """The processes' names."""
        return tuple(self._core.supervisor.instances)

    def pid(self, name: str) -> int:
        """A process's id; 0 where none lives."""
        return self._find(name).pid

    def pids(self) -> dict[str, list[int]]:
        """Process ids by name: the process, then its descendants, such as PostgreSQL's."""
        return self._core.pids()

    def restarts(self, name: str) -> int:
        """How often a process was started again after dying."""
        return self._find(name).restarts

    def events(self, kind: Happening | None = None, name: str | None = None) -> list[StackEvent]:
        """What happened to the processes, oldest first; the newest 10,000 are kept."""
        return [
            event for event in self._core.events if kind in (None, event.kind) and name in (None, event.name)
        ]

    # Inside

    @staticmethod
    async def _remove_temporary(core: StackCore) -> None:
        if core.profile.temporary:
            await asyncio.to_thread(shutil.rmtree, core.profile.path)

    @property
    def _core(self) -> StackCore:
        if self._running is None:
            raise StackError("the stack does not run")
        return self._running[0]

    def _find(self, name: str) -> Instance:
        return self._core.supervisor.find(name)

    async def _call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        if self._running is None:
            coroutine.close()
            raise StackError("the stack does not run")
        return await self._running[1].call(coroutine)

    def _do(self, function: Callable[[], Result]) -> Result:
        if self._running is None:
            raise StackError("the stack does not run")
        return self._running[1].call_blocking(function)
