"""An instance: its slots, the offers it takes up and the attempts it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from services.agent.execution import Execution
from services.agent.lease import Lease
from services.agent.ledger import Begun, Ledger
from services.agent.metrics import REFUSALS, REPLAYED, RUNNING, SLOTS, Meter
from services.agent.runtime import MeshRuntime
from services.agent.scheduler import SchedulerLink
from services.agent.stops import Stop
from services.agent.tools import ToolStream
from workmesh import telemetry
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError, from_status
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptGrant, AttemptRefusal, BeginAttempt
from workmesh.scheduler.v1.lease_service_pb2 import (
    Done,
    HandlerVersion,
    Heartbeat,
    Hello,
    LeaseJobsResponse,
    Offer,
    RunningLease,
)
from workmesh.sdk.attempt import Attempt
from workmesh.sdk.definition import Definition

_logger = logging.getLogger(__name__)

Handlers = Mapping[tuple[str, int], Definition]
"""Definitions by agent and version."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who an instance is."""

    name: str
    pools: tuple[str, ...]
    slots: int


class Instance:
    """Takes offers to the ledger, runs what is granted, and tells the scheduler what became of them.

    `asked_to_drain` is called when a scheduler wants the process to end.
    """

    def __init__(
        self,
        identity: Identity,
        ledger: Ledger,
        tools: ToolStream,
        link: SchedulerLink,
        clock: Clock,
        spans: telemetry.Telemetry,
        asked_to_drain: Callable[[], None],
    ) -> None:
        self.identity = identity
        self.handlers: Handlers = {}
        self.address = ""
        self.busy = asyncio.Event()
        self.committed_count = 0
        self.failed_count = 0
        self.draining = False
        self._ledger = ledger
        self._tools = tools
        self._link = link
        self._clock = clock
        self._spans = spans
        self._asked_to_drain = asked_to_drain
        # Offers on their way through BeginAttempts, and whether cancellation was asked for meanwhile.
        self._beginning: dict[str, tuple[Offer, bool]] = {}
        self._executions: dict[str, Execution] = {}
        self._stuck: set[Execution] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._meters: dict[str, Meter] = {}
        SLOTS.set(identity.slots)
        RUNNING.set_function(lambda: len(self._executions))

    @property
    def executions(self) -> Collection[Execution]:
        """Attempts that run now."""
        return self._executions.values()

    def introduce(self, handlers: Handlers, address: str) -> None:
        """Set what is known once the ledger has answered: versions, and host:port of the AgentService."""
        self.handlers = handlers
        self.address = address
        self._meters = {agent: Meter(agent) for agent, _ in handlers}

    def hello(self) -> Hello:
        """Introduce the instance, with the leases it holds."""
        return Hello(
            instance=self.identity.name,
            pools=self.identity.pools,
            handlers=[HandlerVersion(agent=agent, version=version) for agent, version in self.handlers],
            slots=self.identity.slots,
            running=self._running(),
            address=self.address,
        )

    def free_slots(self) -> int:
        """Return how many offers it can take."""
        return 0 if self.draining else max(0, self.identity.slots - self._taken())

    def heartbeat(self) -> Heartbeat:
        """Name the leases it holds."""
        return Heartbeat(running=self._running(), draining=self.draining)

    def receive(self, response: LeaseJobsResponse) -> None:
        """Take offers, cancellations and drain requests, without waiting."""
        if response.offers:
            self._take_up(response.offers)
        for notice in response.cancels:
            self._cancel(notice.lease_id)
        if response.drain and not self.draining:
            _logger.info("the scheduler asks to drain", extra={"action": "drain_requested"})
            self._asked_to_drain()

    async def drain(self, grace: float) -> None:
        """Take nothing more, let attempts end within the grace (seconds), hand the rest back."""
        self.draining = True
        self._link.beat(self.heartbeat())
        _logger.info("draining", extra={"action": "draining", "running": len(self._executions)})
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            for execution in list(self._executions.values()):
                execution.stop(Stop.DRAIN)
            await self._idle.wait()

    def cut_off(self) -> None:
        """Cancel what still runs, unreported: the process ends."""
        for execution in (*self._executions.values(), *self._stuck):
            if execution.task is not None:
                execution.task.cancel()

    def abandon(self, execution: Execution) -> None:
        """Stop counting on an attempt whose handler does not end; its slot comes back if it ever does."""
        if self._executions.pop(execution.lease.offer.lease_id, None) is None:
            return
        self._stuck.add(execution)
        _logger.error(
            "a handler does not end though it was cancelled: its slot is gone",
            extra={"action": "handler_stuck", "job_id": execution.job.job_id, "agent": execution.job.agent},
        )
        self._tell(execution.lease.offer.lease_id, Done.OUTCOME_UNKNOWN, freed=0)
        self._settle()

    def _taken(self) -> int:
        return len(self._executions) + len(self._beginning) + len(self._stuck)

    def _running(self) -> list[RunningLease]:
        offers = [execution.lease.offer for execution in self._executions.values()]
        offers += [offer for offer, _ in self._beginning.values()]
        return [
            RunningLease(lease_id=offer.lease_id, job_id=offer.job_id, dispatch=offer.dispatch)
            for offer in offers
        ]

    # ------------------------------------------------------------ offers

    def _take_up(self, offers: Sequence[Offer]) -> None:
        accepted: list[Offer] = []
        room = self.free_slots()
        for offer in offers:
            if len(accepted) >= room:
                # More than was asked for: no slot becomes free by it.
                self._refuse(offer, "no_slot", freed=0)
            elif (offer.agent, offer.version) not in self.handlers:
                self._refuse(offer, "no_handler", freed=1)
            else:
                accepted.append(offer)
        if not accepted:
            return
        items = [
            BeginAttempt(job_id=offer.job_id, dispatch=offer.dispatch, lease_id=offer.lease_id)
            for offer in accepted
        ]
        try:
            answer = self._ledger.begin.submit(items)
        except MeshError:
            for offer in accepted:
                self._refuse(offer, "queue_full", freed=1)
            return
        self._beginning.update((offer.lease_id, (offer, False)) for offer in accepted)
        self._idle.clear()
        answer.add_done_callback(partial(self._begun, accepted))

    def _begun(self, offers: Sequence[Offer], answer: asyncio.Future[list[Begun]]) -> None:
        if answer.cancelled() or (error := answer.exception()) is not None:
            _logger.warning(
                "attempts were not begun: %s",
                "cancelled" if answer.cancelled() else error,
                extra={"action": "begin_failed", "offers": len(offers)},
            )
            for offer in offers:
                self._beginning.pop(offer.lease_id)
                self._refuse(offer, "begin_failed", freed=1)
        else:
            for offer, begun in zip(offers, answer.result(), strict=True):
                _, cancelled = self._beginning.pop(offer.lease_id)
                try:
                    self._start(offer, begun, cancelled)
                except Exception:
                    _logger.exception(
                        "an attempt could not be started",
                        extra={"action": "start_failed", "job_id": offer.job_id},
                    )
                    self._refuse(offer, "start_failed", freed=1)
        self._settle()

    def _start(self, offer: Offer, begun: Begun, cancelled: bool) -> None:
        result = begun.result
        if result.HasField("refusal"):
            reason = AttemptRefusal.Reason.Name(result.refusal.reason).removeprefix("REASON_").lower()
            REFUSALS.labels(reason).inc()
            done = Done(lease_id=offer.lease_id, outcome=Done.OUTCOME_REFUSED, refusal=result.refusal)
            self._link.ended(done, 1)
        elif result.HasField("grant"):
            execution = self._execution(offer, begun, result.grant)
            self._executions[offer.lease_id] = execution
            self.busy.set()
            execution.task = asyncio.create_task(self._run(execution))
            if cancelled or execution.job.cancel_requested:
                execution.stop(Stop.CANCEL)
        else:
            _logger.warning(
                "the ledger could not begin an attempt: %s",
                from_status(result.error),
                extra={"action": "begin_failed", "job_id": offer.job_id},
            )
            self._refuse(offer, "begin_failed", freed=1)

    def _execution(self, offer: Offer, begun: Begun, grant: AttemptGrant) -> Execution:
        job = grant.job
        definition = self.handlers[offer.agent, offer.version]
        lease = Lease(offer, job.epoch, begun.token, begun.sent_at, begun.lease_seconds, self._clock)
        seconds, reason = definition.attempt_timeout, Stop.TIMEOUT
        now = self._clock.time()
        if job.deadline_micros and job.deadline_micros / 1e6 - now < seconds:
            seconds, reason = max(0.0, job.deadline_micros / 1e6 - now), Stop.DEADLINE
        runtime = MeshRuntime(
            lease, job.client_id, micros(now + seconds), self._ledger, self._tools, self._clock
        )
        attempt = Attempt(definition, job, grant.journal, runtime)
        if grant.journal:
            REPLAYED.inc()
        return Execution(lease, job, attempt, runtime, self._clock.monotonic() + seconds, reason, self._clock)

    def _refuse(self, offer: Offer, reason: str, *, freed: int) -> None:
        REFUSALS.labels(reason).inc()
        _logger.info(
            "an offer was not taken up: %s",
            reason,
            extra={"action": "offer_refused", "job_id": offer.job_id, "agent": offer.agent},
        )
        self._tell(offer.lease_id, Done.OUTCOME_UNKNOWN, freed=freed)

    # ------------------------------------------------------------ attempts

    async def _run(self, execution: Execution) -> None:
        reported = False
        try:
            with self._trace(execution.lease) as own_span:
                execution.lease.traceparent = own_span or execution.lease.traceparent
                reported = await execution.run()
        except Exception:
            _logger.exception(
                "an attempt ended in a fault of the instance",
                extra={"action": "execution_failed", "job_id": execution.job.job_id},
            )
        finally:
            self._ended(execution, reported)

    def _trace(self, lease: Lease) -> AbstractContextManager[str | None]:
        """Let log lines carry the job's trace; yields the traceparent of a span where one is recorded."""
        if not self._spans.enabled:
            return telemetry.trace(lease.traceparent)
        offer = lease.offer
        return self._spans.span(
            f"attempt {offer.agent}", lease.traceparent, {"job_id": offer.job_id, "epoch": lease.ref.epoch}
        )

    def _ended(self, execution: Execution, reported: bool) -> None:
        meter = self._meters[execution.lease.offer.agent]
        meter.ended(execution.outcome, self._clock.monotonic() - execution.started_at)
        if execution.outcome == "committed":
            self.committed_count += 1
        else:
            self.failed_count += 1
        lease_id = execution.lease.offer.lease_id
        if execution in self._stuck:
            self._stuck.discard(execution)
            self._link.ended(None, 1)
        else:
            del self._executions[lease_id]
            self._tell(lease_id, Done.OUTCOME_REPORTED if reported else Done.OUTCOME_UNKNOWN, freed=1)
        self._settle()

    def _cancel(self, lease_id: str) -> None:
        if (execution := self._executions.get(lease_id)) is not None:
            execution.stop(Stop.CANCEL)
        elif (known := self._beginning.get(lease_id)) is not None:
            self._beginning[lease_id] = (known[0], True)

    def _tell(self, lease_id: str, outcome: Done.Outcome.ValueType, *, freed: int) -> None:
        self._link.ended(Done(lease_id=lease_id, outcome=outcome), freed)

    def _settle(self) -> None:
        if not self._executions:
            self.busy.clear()
            if not self._beginning:
                self._idle.set()
