"""The instances connected to this scheduler: what they can run and how many offers they may get."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from workmesh.rpc.streams import StreamSender
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch
from workmesh.scheduler.v1.lease_service_pb2 import Hello, LeaseJobsResponse

Handler: TypeAlias = tuple[str, int]
"""Agent and definition version."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Asks an instance to take nothing more."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Tells that a job's cancellation was requested."""

    job_id: str
    lease_id: str


class OfferNotice(NamedTuple):
    """Offers a job under a lease."""

    dispatch: Dispatch
    lease_id: str


Notice: TypeAlias = OfferNotice | Cancel | Drain


class Instance:
    """A connected instance. `credit` is how many more offers it may get now."""

    __slots__ = ("address", "credit", "draining", "handlers", "heard_at", "name", "pools", "sender", "slots")

    def __init__(self, hello: Hello, heard_at: float) -> None:
        self.name = hello.instance
        self.pools = frozenset(hello.pools)
        self.handlers: frozenset[Handler] = frozenset((each.agent, each.version) for each in hello.handlers)
        self.slots = hello.slots
        self.address = hello.address
        self.credit = 0
        self.draining = False
        self.heard_at = heard_at
        self.sender: StreamSender[Notice, LeaseJobsResponse] = StreamSender(
            combine, name=f"offers to {hello.instance}"
        )

    def grant(self, slots: int) -> None:
        """Add slots that became free: never more than there are."""
        self.credit = min(self.slots, self.credit + max(0, slots))


class Instances:
    """All connected instances, by name and by pool.

    One that was silent for `silence` seconds gets no offers until it is heard again.
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._by_name: dict[str, Instance] = {}
        self._by_pool: dict[str, list[Instance]] = {}
        self._by_handler: dict[tuple[str, Handler], list[Instance]] = {}

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Instance | None:
        """Return the instance of that name."""
        return self._by_name.get(name)

    def connect(self, instance: Instance) -> Instance | None:
        """Enter an instance and return the one of the same name that it replaces."""
        replaced = self._by_name.get(instance.name)
        if replaced is not None:
            self.disconnect(replaced)
        self._by_name[instance.name] = instance
        for pool in instance.pools:
            self._by_pool.setdefault(pool, []).append(instance)
            for handler in instance.handlers:
                self._by_handler.setdefault((pool, handler), []).append(instance)
        return replaced

    def disconnect(self, instance: Instance) -> None:
        """Forget an instance, unless another connection took its place."""
        if self._by_name.get(instance.name) is not instance:
            return
        del self._by_name[instance.name]
        for pool in instance.pools:
            self._by_pool[pool].remove(instance)
            for handler in instance.handlers:
                self._by_handler[pool, handler].remove(instance)

    def serves(self, pool: str) -> bool:
        """Tell whether an instance of the pool is connected."""
        return bool(self._by_pool.get(pool))

    def free_slots(self, pool: str, now: float) -> int:
        """Return how many offers the pool's instances may get."""
        return sum(each.credit for each in self._by_pool.get(pool, ()) if self._available(each, now))

    def choose(self, pool: str, handler: Handler, now: float) -> Instance | None:
        """Return the instance with the largest free part of its slots that can run the handler."""
        best: Instance | None = None
        most = 0.0
        heard_since = now - self._silence
        for each in self._by_handler.get((pool, handler), ()):
            free = each.credit / each.slots
            if free > most and not each.draining and each.heard_at >= heard_since:
                best, most = each, free
        return best

    def _available(self, instance: Instance, now: float) -> bool:
        return not instance.draining and now - instance.heard_at <= self._silence


def combine(notices: list[Notice]) -> LeaseJobsResponse:
    """Make one response of what was put in one loop turn."""
    response = LeaseJobsResponse()
    add = response.offers.add
    for notice in notices:
        if isinstance(notice, OfferNotice):
            dispatch, lease_id = notice
            add(
                job_id=dispatch.job_id,
                dispatch=dispatch.dispatch,
                lease_id=lease_id,
                agent=dispatch.agent,
                version=dispatch.version,
                traceparent=dispatch.traceparent,
            )
        elif isinstance(notice, Cancel):
            response.cancels.add(job_id=notice.job_id, lease_id=notice.lease_id)
        else:
            response.drain = True
    return response
