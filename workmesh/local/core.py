"""One running stack, inside its own event loop: the order of setting up and taking down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from workmesh import keys
from workmesh.clock import SystemClock
from workmesh.local import edge
from workmesh.local.accounts import postgres_account
from workmesh.local.binaries import preflight
from workmesh.local.errors import StackError, StartError
from workmesh.local.events import EventLog
from workmesh.local.home import (
    Profile,
    ProfileLock,
    cache_directory,
    choose_run_directory,
    remove_run_directory,
)
from workmesh.local.instance import State
from workmesh.local.options import StackOptions
from workmesh.local.passwords import load_passwords
from workmesh.local.ports import PortPicker
from workmesh.local.record import (
    ProcessRecord,
    Record,
    end_stale,
    identity,
    read_record,
    write_record,
)
from workmesh.local.replica import Replica, Roster, replica_name
from workmesh.local.restart import RestartPolicy
from workmesh.local.services import SERVICES, Service
from workmesh.local.site import Site
from workmesh.local.stores import nats, postgres, valkey
from workmesh.local.supervisor import Supervisor

SCALABLE = ("agent", "gateway")


class StackCore:
    """Owns the profile's lock, its record and its supervisor."""

    def __init__(self, profile: Profile, options: StackOptions, services: Sequence[Service]) -> None:
        self.profile = profile
        self.options = options
        self.services = services
        self.roster = Roster()
        self._ports = PortPicker()
        self._lock = ProfileLock(profile)
        self._resources = contextlib.ExitStack()
        self._watchdog: asyncio.subprocess.Process | None = None
        self.site: Site
        self.events: EventLog
        self.supervisor: Supervisor

    async def start(self) -> None:
        """Bring everything up, or leave nothing behind."""
        self.profile.path.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            await asyncio.to_thread(self._end_predecessor)
            self.site = await asyncio.to_thread(self._settle)
            self._plan_replicas()
            self._open_supervisor()
            await self._start_watchdog()
            self.write_record()
            await self.supervisor.start(self.services)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Take everything down in order; harmless where little came up."""
        if hasattr(self, "supervisor"):
            await self.supervisor.stop()
        if hasattr(self, "site"):
            remove_run_directory(self.site.run)
            self.profile.record.unlink(missing_ok=True)
        await self._stop_watchdog()
        self._resources.close()
        if self.profile.temporary and hasattr(self, "site"):
            postgres.remove_data(self.site.postgres_data)
        self._lock.release()

    async def wait_ready(self, names: Sequence[str]) -> None:
        """Wait until these processes, or all, are ready.

        Raises:
            StartError: one does not run, or not in time.
        """
        wanted = [self.supervisor.find(name) for name in names] or [*self.supervisor.instances.values()]
        try:
            async with asyncio.timeout(self.options.start_seconds):
                await asyncio.gather(*(instance.wait_ready() for instance in wanted))
        except TimeoutError:
            raise StartError(self.supervisor.unready()) from None

    async def start_process(self, name: str) -> None:
        """Start a stopped process and wait until it is ready."""
        self.supervisor.find(name).start()
        await self.wait_ready((name,))

    async def scale(self, service: str, count: int) -> None:
        """Start or stop instances until there are `count`.

        Raises:
            StackError: the service cannot be scaled while others hold its addresses.
        """
        if service not in SCALABLE or count < 0:
            raise StackError(f"only {' and '.join(SCALABLE)} can be scaled, to 0 or more")
        present = list(self.roster.of(service))
        for replica in present[count:]:
            self.roster.remove(replica.name)
            self.refresh()
        await asyncio.gather(*(self.supervisor.remove(replica.name) for replica in present[count:]))
        added = [self._new_replica(service, number) for number in range(len(present) + 1, count + 1)]
        await asyncio.gather(*(self.supervisor.start_replica(replica) for replica in added))
        self.refresh()

    def refresh(self) -> None:
        """Bring the endpoints at the edge and the record up to date."""
        if "envoy" in self.supervisor.instances:
            gateways = (self.supervisor.instances.get(each.name) for each in self.roster.of("gateway"))
            ready = [each for each in gateways if each is not None and each.state is State.READY]
            edge.write_endpoints(self.site, [self.roster.replicas[each.name].port for each in ready])
        self.write_record()

    def pids(self) -> dict[str, list[int]]:
        """The process ids of each instance, its own first, then its descendants'."""
        found: dict[str, list[int]] = {}
        for name, instance in self.supervisor.instances.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                if instance.pid:
                    children = psutil.Process(instance.pid).children(recursive=True)
                    found[name] = [instance.pid, *(child.pid for child in children)]
        return found

    def write_record(self) -> None:
        """Store what runs where."""
        write_record(self.profile.record, self._record())

    def _end_predecessor(self) -> None:
        record = read_record(self.profile.record)
        if record is None:
            return
        end_stale(record)
        run = Path(record.run_directory)
        if run.is_absolute():
            remove_run_directory(run)
        self.profile.record.unlink()

    def _settle(self) -> Site:
        options, profile = self.options, self.profile
        names = {service.name for service in self.services}
        account = postgres_account() if "postgres" in names - options.external.keys() else None
        if options.wipe:
            postgres.remove_data(postgres.data_directory(profile, account))
            profile.wipe()
        profile.make()
        keys.make_keys(profile.keys)
        return Site(
            profile=profile,
            options=options,
            binaries=preflight(names & _with_binaries() - options.external.keys()),
            passwords=load_passwords(profile.keys, (*nats.USERS, *valkey.USERS)),
            run=choose_run_directory(profile, account),
            cache=cache_directory(),
            account=account,
            edge_port=self._ports.pick(options.edge_port),
            nats_port=self._ports.pick(),
            postgres_data=postgres.data_directory(profile, account),
        )

    def _plan_replicas(self) -> None:
        for service in self.services:
            if service.name in self.options.external:
                continue
            for number in range(1, self._count(service) + 1):
                self._new_replica(service.name, number)

    def _count(self, service: Service) -> int:
        if service.name == "agent":
            return self.options.agents
        return self.options.replicas.get(service.name, 1) if service.grpc else 1

    def _new_replica(self, service: str, number: int) -> Replica:
        port = self._ports.pick() if SERVICES[service].grpc else 0
        name = replica_name(service, number, max(number, self._count(SERVICES[service])))
        replica = Replica(service, number, name, port)
        self.roster.add(replica)
        return replica

    def _open_supervisor(self) -> None:
        log = self._resources.enter_context((self.profile.logs / "stack.log").open("a", encoding="utf-8"))
        clock = SystemClock()
        self.events = EventLog(log, clock)
        self.supervisor = Supervisor(
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
        self._watchdog = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workmesh.local.watchdog", str(self.profile.record)),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def _stop_watchdog(self) -> None:
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            await self._watchdog.wait()

    def _record(self) -> Record:
        runner = os.getpid()
        instances = self.supervisor.instances.values()
        return Record(
            profile=self.profile.name,
            runner=ProcessRecord("runner", "runner", runner, identity(runner) or "", "running", 0),
            edge=f"{edge.HOST}:{self.site.edge_port}",
            run_directory=str(self.site.run),
            urls=self._urls(),
            processes=tuple(
                ProcessRecord(
                    name=each.name,
                    service=each.plan.service,
                    pid=each.pid,
                    identity=each.identity,
                    state=str(each.state),
                    restarts=each.restarts,
                    address=each.plan.address,
                    death_signal=int(each.plan.death_signal),
                )
                for each in instances
            ),
        )

    def _urls(self) -> dict[str, str]:
        """Addresses without passwords."""
        urls: Mapping[str, str] = {
            "postgres": postgres.database_url(self.site)
            if not self.site.external("postgres")
            else "external",
            "nats": f"nats://127.0.0.1:{self.site.nats_port}",
            "valkey": f"unix://{self.site.valkey_socket}",
            "edge": f"{edge.HOST}:{self.site.edge_port}",
        }
        return dict(urls)


def _with_binaries() -> set[str]:
    return {service.name for service in SERVICES.values() if service.binary}
