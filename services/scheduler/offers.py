"""Offers work to instances and hears what became of it."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.scheduler.aside import Aside
from services.scheduler.bus import Bus
from services.scheduler.delays import aside_seconds
from services.scheduler.figures import ASIDE, EXPIRIES, INFLIGHT, OUTCOMES
from services.scheduler.inflight import Inflight
from services.scheduler.instances import Cancel, Instance, Instances, OfferNotice
from services.scheduler.messages import Message
from services.scheduler.moves import Mover
from services.scheduler.pools import Pools
from services.scheduler.subjects import LANE_NAMES
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal
from workmesh.scheduler.v1.dispatch_pb2 import JobHints
from workmesh.scheduler.v1.lease_service_pb2 import Done, Heartbeat, RunningLease

_logger = logging.getLogger(__name__)

PROGRESS = b"+WPI"
# Looked up once: labels() costs as much as all else that is counted.
_REPORTED, _REFUSED, _UNKNOWN = (OUTCOMES.labels(name) for name in ("reported", "refused", "unknown"))
_OVER = (AttemptRefusal.REASON_TERMINAL, AttemptRefusal.REASON_SUPERSEDED)
_TIMED = (AttemptRefusal.REASON_LEASE_HELD, AttemptRefusal.REASON_NOT_DUE)


@dataclass(frozen=True, slots=True)
class OfferTiming:
    """Seconds: until an offer nobody speaks of is lost, between signs of progress, between rounds of care."""

    lifetime: float
    progress: float
    tick: float = 0.25


class Offers:
    """What happens to a message between its delivery and its acknowledgement.

    The ledger alone grants attempts: an offer too many is refused there, so that in doubt one is made.
    """

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        instances: Instances,
        inflight: Inflight,
        mover: Mover,
        timing: OfferTiming,
        pools: Callable[[], Pools],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._instances = instances
        self._inflight = inflight
        self._mover = mover
        self._timing = timing
        self._pools = pools
        self._aside = Aside()
        # Version 4 (RFC 9562) in form: random once a process, then counted, at a tenth of a new one's cost.
        self._lease_prefix = str(uuid.uuid4())[:24]
        self._last_lease = 0
        self._progress_at = 0.0

    def connected(self, instance: Instance) -> None:
        """Enter an instance; jobs that were put aside for want of it come at once."""
        replaced = self._instances.connect(instance)
        if replaced is not None:
            replaced.sender.close()
        self._fetch_aside(instance, len(self._aside))

    def disconnected(self, instance: Instance) -> None:
        """Forget an instance; its leases end when their time is over, unless it comes back."""
        instance.sender.close()
        self._instances.disconnect(instance)

    def ready(self, instance: Instance, slots: int) -> None:
        """Note slots that became free."""
        instance.grant(slots)
        if len(self._aside):
            self._fetch_aside(instance, slots)
        self._pools().wake(instance.pools)

    def heartbeat(self, instance: Instance, heartbeat: Heartbeat) -> None:
        """Note which leases live."""
        instance.draining = instance.draining or heartbeat.draining
        self._inflight.named(instance.name, heartbeat.running, self._clock.monotonic())

    def resumed(self, instance: Instance, running: Iterable[RunningLease]) -> None:
        """Note the leases that an instance kept over a reconnection."""
        self._inflight.named(instance.name, running, self._clock.monotonic())

    def done(self, over: Iterable[Done]) -> None:
        """Settle offers that are over."""
        reported = refused = unknown = 0
        for done in over:
            if done.outcome == Done.OUTCOME_REPORTED:
                reported += 1
                lease = self._inflight.close(done.lease_id)
                if lease is not None and lease.message is not None:
                    self._bus.owe(lease.message.reply)
            elif done.outcome == Done.OUTCOME_REFUSED:
                refused += 1
                self._refused(done)
            else:
                unknown += 1
                # Begun or not, nobody knows: the lease may be held at the ledger until its time is over.
                self._inflight.adrift(done.lease_id, self._clock.monotonic())
        for counter, count in ((_REPORTED, reported), (_REFUSED, refused), (_UNKNOWN, unknown)):
            if count:
                counter.inc(count)

    def admit(self, message: Message) -> bool:
        """Tell whether a message that arrived needs an offer: not if its job is in hand here already."""
        if len(self._aside):
            self._aside.discard(message.key)
        lease = self._inflight.holder(message)
        if lease is None:
            return True
        if lease.message is None or lease.message.sequence == message.sequence:
            lease.message = message
            lease.touched_at = self._clock.monotonic()
        else:
            # A duplicate. The first one stays unacknowledged until the job is done with.
            self._bus.owe(message.reply)
        return False

    def offer(self, message: Message, now: float) -> bool:
        """Offer a message to an instance; False if none took it, and then it was put aside."""
        dispatch = message.dispatch
        instance = self._instances.choose(dispatch.pool, (dispatch.agent, dispatch.version), now)
        if instance is None:
            self._put_aside(message)
            return False
        self._last_lease += 1
        lease_id = f"{self._lease_prefix}{self._last_lease:012x}"
        instance.credit -= 1
        try:
            instance.sender.put(OfferNotice(dispatch, lease_id))
        except MeshError as error:
            # The stream is ending or stuck: nothing was sent, so the message is still free.
            instance.credit = 0
            _logger.info(
                "an instance takes no offers",
                extra={"action": "offer_refused", "instance_name": instance.name, "reason": error.reason},
            )
            self._pools().offer_again(message)
            return False
        self._inflight.offered(lease_id, message, instance.name, now)
        return True

    def cancelled(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Tell instances which of their jobs are to be cancelled."""
        for hint in JobHints.FromString(data).hints:
            lease = self._inflight.of_job(hint.job_id)
            instance = self._instances.get(lease.instance) if lease is not None else None
            if lease is None or instance is None:
                continue
            try:
                instance.sender.put(Cancel(lease.job_id, lease.lease_id))
            except MeshError as error:
                # Renewing its lease tells the instance the same.
                _logger.info(
                    "a cancellation could not be told",
                    extra={"action": "cancel_untold", "job_id": lease.job_id, "reason": error.reason},
                )

    def holds(self, job_id: str, dispatch: int) -> bool:
        """Tell whether this scheduler has the message of a job in hand, or knows who runs it."""
        lease = self._inflight.of_job(job_id)
        if lease is not None and lease.dispatch == dispatch:
            return True
        return self._aside.holds((job_id, dispatch))

    async def run(self) -> None:
        """Look after leases, messages and pulls, for ever."""
        while True:
            await asyncio.sleep(self._timing.tick)
            self.tick(self._clock.monotonic())

    def tick(self, now: float) -> None:
        """Offer again what is lost and tell JetStream what is in hand."""
        for lease in self._inflight.expired(now):
            EXPIRIES.inc()
            _logger.info(
                "nothing was heard of an offer",
                extra={"action": "lease_lost", "job_id": lease.job_id, "instance_name": lease.instance},
            )
            if lease.message is not None:
                self._pools().offer_again(lease.message)
        for message in self._inflight.stale(now, self._timing.progress):
            self._bus.owe(message.reply, PROGRESS)
        if now - self._progress_at >= self._timing.progress:
            self._progress_at = now
            for queue in self._pools():
                for message in queue.held():
                    self._bus.owe(message.reply, PROGRESS)
        self._pools().check(now)
        INFLIGHT.set(len(self._inflight))

    def _refused(self, done: Done) -> None:
        lease = self._inflight.close(done.lease_id)
        message = lease.message if lease is not None else None
        if message is None:
            return
        reason, retry = done.refusal.reason, done.refusal.retry_time_micros
        now = self._clock.time()
        if reason in _OVER:
            self._bus.owe(message.reply)
        elif reason in _TIMED:
            self._mover.move(message, retry or micros(now + self._timing.lifetime))
        else:
            delay = aside_seconds(message.moves)
            self._mover.move(message, retry or micros(now + delay), message.moves + 1)

    def _put_aside(self, message: Message) -> None:
        dispatch = message.dispatch
        ASIDE.labels(dispatch.pool, LANE_NAMES[message.lane]).inc()
        self._aside.put(dispatch)
        due = self._clock.time() + aside_seconds(message.moves)
        self._mover.move(message, micros(due), message.moves + 1)

    def _fetch_aside(self, instance: Instance, most: int) -> None:
        now = micros(self._clock.time())
        for dispatch in self._aside.take(instance.handlers, most):
            self._mover.schedule(dispatch, now)
