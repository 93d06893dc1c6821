"""Starts the instances as their needs allow, keeps them alive, stops them in order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from itertools import groupby

from workmesh.clock import Clock
from workmesh.local.errors import StackError, StartError
from workmesh.local.events import EventLog
from workmesh.local.instance import Instance, Plan, State
from workmesh.local.replica import Replica, Roster
from workmesh.local.restart import RestartPolicy
from workmesh.local.services import SERVICES, Service, probe
from workmesh.local.site import Site


class Supervisor:
    """The processes of one stack. Belongs to one event loop."""

    def __init__(
        self,
        site: Site,
        roster: Roster,
        *,
        policy: RestartPolicy,
        clock: Clock,
        events: EventLog,
        changed: Callable[[], None],
    ) -> None:
        self._site = site
        self._roster = roster
        self._policy = policy
        self._clock = clock
        self._events = events
        self._changed = changed
        self._missing: dict[str, str] = {}
        self.instances: dict[str, Instance] = {}

    def find(self, name: str) -> Instance:
        """The instance of that name, or the first one of the service of that name.

        Raises:
            StackError: there is none.
        """
        if name in self.instances:
            return self.instances[name]
        replicas = self._roster.of(name)
        if not replicas:
            raise StackError(f"no such process: {name}; there are {', '.join(self.instances)}")
        return self.instances[replicas[0].name]

    def of(self, service: str) -> list[Instance]:
        """The instances of a service."""
        return [self.instances[replica.name] for replica in self._roster.of(service)]

    async def start(self, services: Iterable[Service]) -> None:
        """Start everything; each service as soon as what it needs is ready.

        Raises:
            StartError: something did not become ready in time; what runs is left running.
        """
        ready = {service.name: asyncio.Event() for service in services}
        try:
            async with asyncio.timeout(self._site.options.start_seconds), asyncio.TaskGroup() as group:
                for name in ready:
                    group.create_task(self._start_service(SERVICES[name], ready))
        except TimeoutError:
            raise StartError(self.unready()) from None
        except ExceptionGroup as failures:
            raise first_of(failures) from None

    async def start_replica(self, replica: Replica) -> None:
        """Start one instance and wait until it is ready."""
        self._instance(SERVICES[replica.service], replica).start()
        await self.instances[replica.name].wait_ready()

    async def remove(self, name: str) -> None:
        """Stop one instance for good."""
        await self.instances[name].stop()
        self.instances.pop(name)

    async def stop(self) -> None:
        """Stop everything, those that others need last."""

        def rank(instance: Instance) -> int:
            return SERVICES[instance.plan.service].stop_rank

        ordered = sorted(self.instances.values(), key=rank, reverse=True)
        for _, together in groupby(ordered, key=rank):
            await asyncio.gather(*(instance.stop() for instance in together))

    async def _start_service(self, service: Service, ready: dict[str, asyncio.Event]) -> None:
        if service.name not in self._site.options.external:
            await service.prepare(self._site)
        for need in service.needs:
            if need in ready:
                await ready[need].wait()
        replicas = self._roster.of(service.name)
        if service.name not in self._site.options.external:
            await asyncio.gather(*(self.start_replica(replica) for replica in replicas))
        else:
            await self._await_external(service)
        ready[service.name].set()

    async def _await_external(self, service: Service) -> None:
        elsewhere = Replica(service.name, 1, service.name)
        while (why := await probe(service, self._site, elsewhere)) is not None:
            self._missing[service.name] = f"{service.name}, at the URL given: {why}"
            await asyncio.sleep(0.2)
        self._missing.pop(service.name, None)

    def unready(self) -> str:
        """What is not ready, why, and the last words of its log."""
        late = [instance for instance in self.instances.values() if instance.state is not State.READY]
        parts = [f"{each.name}: {each.why_not_ready()}\n{each.log_tail()}" for each in late]
        parts += self._missing.values()
        return f"not ready after {self._site.options.start_seconds:g} s:\n" + "\n".join(parts)

    def _instance(self, service: Service, replica: Replica) -> Instance:
        plan = Plan(
            name=replica.name,
            service=service.name,
            command=service.command(self._site, replica),
            environment=service.environment(self._site, self._roster, replica),
            probe=lambda: probe(service, self._site, replica),
            log=self._site.profile.logs / f"{replica.name}.log",
            account=self._site.account if service.name == "postgres" else None,
            stop_signal=service.stop_signal,
            stop_seconds=service.stop_seconds,
            death_signal=service.death_signal,
            address=replica.address,
        )
        instance = Instance(
            plan,
            policy=self._policy,
            clock=self._clock,
            events=self._events,
            pin=self._site.options.pin_to_parent and sys.platform == "linux",
            changed=self._changed,
        )
        self.instances[replica.name] = instance
        return instance


def first_of(failures: ExceptionGroup) -> Exception:
    """The first leaf of a group: the others were cancelled or failed for the same reason."""
    first: Exception = failures.exceptions[0]
    return first_of(first) if isinstance(first, ExceptionGroup) else first
