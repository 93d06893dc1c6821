"""Offers that are not over: which message belongs to which lease, and which leases are still alive.

A lease counts as alive until `lease + allowance` seconds have passed since it was offered or since the last
heartbeat that named it: only then may the ledger have given it up, and only then is its message offered
again. Whether a stream broke makes no difference. Acknowledgements are no fence: the ledger refuses what
comes twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.scheduler.messages import Message
from workmesh.scheduler.v1.lease_service_pb2 import RunningLease


@dataclass(slots=True)
class Lease:
    """An offer that is not over. Times are monotonic seconds."""

    lease_id: str
    job_id: str
    dispatch: int
    instance: str
    alive_at: float
    touched_at: float
    message: Message | None
    """None while another scheduler, or an earlier life of this one, got the message."""


class Inflight:
    """The leases of the instances that are connected here, and of those that were."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._by_lease: dict[str, Lease] = {}
        self._by_job: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._by_lease)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._by_lease.values()))

    def offered(self, lease_id: str, message: Message, instance: str, now: float) -> None:
        """Enter an offer."""
        job_id, dispatch = message.key
        self._enter(Lease(lease_id, job_id, dispatch, instance, now, now, message))

    def named(self, instance: str, running: Iterable[RunningLease], now: float) -> None:
        """Note the leases that an instance says it holds, unknown ones too."""
        for each in running:
            lease = self._by_lease.get(each.lease_id)
            if lease is None:
                lease = Lease(each.lease_id, each.job_id, each.dispatch, instance, now, now, None)
                self._enter(lease)
            lease.alive_at = now
            lease.instance = instance

    def adrift(self, lease_id: str, now: float) -> None:
        """Note that nobody can tell what became of a lease: it may live for a lifetime yet."""
        lease = self._by_lease.get(lease_id)
        if lease is not None:
            lease.alive_at = now

    def holder(self, message: Message) -> Lease | None:
        """Return the live lease under which the message's job already runs, or is offered, here."""
        lease = self._by_job.get(message.dispatch.job_id)
        return lease if lease is not None and lease.dispatch == message.dispatch.dispatch else None

    def of_job(self, job_id: str) -> Lease | None:
        """Return the newest lease of a job."""
        return self._by_job.get(job_id)

    def count_by_instance(self) -> Counter[str]:
        """Return the number of leases by instance."""
        return Counter(lease.instance for lease in self._by_lease.values())

    def close(self, lease_id: str) -> Lease | None:
        """Remove a lease that is over; None if it is not known."""
        lease = self._by_lease.pop(lease_id, None)
        if lease is not None and self._by_job.get(lease.job_id) is lease:
            del self._by_job[lease.job_id]
        return lease

    def expired(self, now: float) -> list[Lease]:
        """Remove and return the leases that nobody has named for a lifetime."""
        limit = now - self._lifetime
        over = [lease for lease in self._by_lease.values() if lease.alive_at < limit]
        for lease in over:
            self.close(lease.lease_id)
        return over

    def stale(self, now: float, age: float) -> list[Message]:
        """Return the messages that need a sign of progress, last given `age` seconds ago or earlier."""
        limit = now - age
        found = []
        for lease in self._by_lease.values():
            if lease.message is not None and lease.touched_at <= limit:
                lease.touched_at = now
                found.append(lease.message)
        return found

    def forget_messages(self) -> None:
        """Keep the leases, but not their messages: the stream that these came from is gone."""
        for lease in self._by_lease.values():
            lease.message = None

    def _enter(self, lease: Lease) -> None:
        self._by_lease[lease.lease_id] = lease
        self._by_job[lease.job_id] = lease
