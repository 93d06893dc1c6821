"""One running stack, inside its own event loop: the order of setting up and taking down."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import psutil

from workmesh.clock import SystemClock
from workmesh.local import edge
from workmesh.local.description import describe
from workmesh.local.errors import StackError, StartError
from workmesh.local.events import EventLog
from workmesh.local.health import probe_grpc
from workmesh.local.home import Profile, ProfileLock, remove_run_directory
from workmesh.local.instance import State
from workmesh.local.options import StackOptions
from workmesh.local.ports import PortPicker
from workmesh.local.record import write_record
from workmesh.local.replica import Replica, Roster, replica_name
from workmesh.local.restart import RestartPolicy
from workmesh.local.services import SERVICES, Service
from workmesh.local.settle import clear_predecessor, settle
from workmesh.local.site import Site
from workmesh.local.stores import postgres
from workmesh.local.supervisor import Supervisor

# The others' addresses are part of their callers' environment.
SCALABLE = ("agent", "gateway")
EDGE_POLL_SECONDS = 0.02


class StackCore:
    """Owns the profile's lock, its record and its supervisor."""

    def __init__(self, profile: Profile, options: StackOptions, services: Sequence[Service]) -> None:
        self.profile = profile
        self.options = options
        self.services = services
        self.roster = Roster()
        self.site: Site
        self.events: EventLog
        self.supervisor: Supervisor
        self._ports = PortPicker()
        self._undo = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Bring everything up, or leave nothing running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take down in order whatever came up."""
        await self._undo.aclose()

    async def wait_ready(self, names: Sequence[str]) -> None:
        """Wait until these processes, or all, are ready.

        Raises:
            StartError: one does not run, or not in time.
        """
        wanted = [self.supervisor.find(name) for name in names] or [*self.supervisor.instances.values()]
        try:
            async with asyncio.timeout(self.options.start_seconds):
                await asyncio.gather(*(instance.wait_ready() for instance in wanted))
                await self._reach_gateway()
        except TimeoutError:
            raise StartError(self.supervisor.unready()) from None

    async def start_process(self, name: str) -> None:
        """Start a stopped process and wait until it is ready."""
        self.supervisor.find(name).start()
        await self.wait_ready((name,))

    async def scale(self, service: str, count: int) -> None:
        """Start or stop processes until there are `count`.

        Raises:
            StackError: the service cannot be scaled while others hold its addresses.
        """
        if service not in SCALABLE or count < 0:
            raise StackError(f"only {' and '.join(SCALABLE)} can be scaled, to 0 or more")
        present = self.roster.of(service)
        surplus = [self.roster.remove(replica.name) for replica in present[count:]]
        await asyncio.gather(*(self.supervisor.remove(replica.name) for replica in surplus))
        added = [self._new_replica(service, number) for number in range(len(present) + 1, count + 1)]
        await asyncio.gather(*(self.supervisor.start_replica(replica) for replica in added))
        self.refresh()

    def refresh(self) -> None:
        """Bring the endpoints at the edge and the record up to date."""
        instances = self.supervisor.instances
        if "envoy" in instances:
            edge.write_endpoints(
                self.site, [self.roster.replicas[name].port for name in self._ready_gateways()]
            )
        write_record(self.profile.record, describe(self.site, instances.values()))

    def _ready_gateways(self) -> list[str]:
        instances = self.supervisor.instances
        names = [each.name for each in self.roster.of("gateway") if each.name in instances]
        return [name for name in names if instances[name].state is State.READY]

    def pids(self) -> dict[str, list[int]]:
        """The process ids of each instance, its own first, then its descendants'."""
        found: dict[str, list[int]] = {}
        for name, instance in tuple(self.supervisor.instances.items()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if pid := instance.pid:
                    children = psutil.Process(pid).children(recursive=True)
                    found[name] = [pid, *(child.pid for child in children)]
        return found

    async def _start(self) -> None:
        self.profile.path.mkdir(parents=True, exist_ok=True)
        lock = ProfileLock(self.profile)
        lock.acquire()
        self._undo.callback(lock.release)
        await asyncio.to_thread(clear_predecessor, self.profile)
        self._undo.callback(self._ports.close)
        names = [service.name for service in self.services]
        self.site = await asyncio.to_thread(settle, self.profile, self.options, names, self._ports)
        self._undo.callback(self._clean_up)
        self._plan_replicas()
        self.supervisor = self._make_supervisor()
        await self._start_watchdog()
        self.refresh()
        self._undo.push_async_callback(self.supervisor.stop)
        await self.supervisor.start(self.services)
        await self.wait_ready(())

    async def _reach_gateway(self) -> None:
        """Return once calls pass Envoy: it finds out by itself, and a little later, that a gateway is up."""
        if "envoy" not in self.supervisor.instances or not self._ready_gateways():
            return
        while True:
            if await probe_grpc(edge.HOST, self.site.edge_port) is None:
                return
            await asyncio.sleep(EDGE_POLL_SECONDS)

    def _clean_up(self) -> None:
        remove_run_directory(self.site.run)
        self.profile.record.unlink(missing_ok=True)
        if self.profile.temporary:
            postgres.remove_data(self.site.postgres_data)

    def _plan_replicas(self) -> None:
        for service in self.services:
            if service.name in self.options.external:
                continue
            for number in range(1, self._count(service) + 1):
                self._new_replica(service.name, number)

    def _count(self, service: Service) -> int:
        if service.name == "agent":
            return self.options.agents if self.options.handlers else 0
        return self.options.replicas.get(service.name, 1) if service.grpc else 1

    def _new_replica(self, service: str, number: int) -> Replica:
        port = self._ports.pick() if SERVICES[service].grpc else 0
        name = replica_name(service, number, max(number, self._count(SERVICES[service])))
        replica = Replica(service, number, name, port)
        self.roster.add(replica)
        return replica

    def _make_supervisor(self) -> Supervisor:
        log = (self.profile.logs / "stack.log").open("a", encoding="utf-8")
        self._undo.callback(log.close)
        clock = SystemClock()
        self.events = EventLog(log, clock)
        return Supervisor(
            self.site,
            self.roster,
            policy=RestartPolicy(),
            clock=clock,
            events=self.events,
            changed=self.refresh,
        )

    async def _start_watchdog(self) -> None:
        if self.options.pin_to_parent and sys.platform == "linux":
            return
        watchdog = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workmesh.local.watchdog", str(self.profile.record)),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._undo.push_async_callback(dismiss, watchdog)


async def dismiss(watchdog: asyncio.subprocess.Process) -> None:
    """Let the watchdog end: by now the record lists no process that lives."""
    if watchdog.stdin is not None:
        watchdog.stdin.close()
    await watchdog.wait()
