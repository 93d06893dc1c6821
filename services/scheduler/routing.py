"""What the log's events mean for the queues: which messages, hints and cancellations follow from them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from services.scheduler.delays import delayed
from services.scheduler.messages import Publication
from services.scheduler.subjects import job_subject
from workmesh.common.v1.job_pb2 import (
    JOB_STATE_CANCELLED,
    JOB_STATE_DEAD_LETTERED,
    JOB_STATE_FAILED,
    JOB_STATE_QUEUED,
    JOB_STATE_RUNNING,
    JOB_STATE_SCHEDULED,
    JOB_STATE_SUCCEEDED,
    JobState,
)
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import Event, Routing
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch, JobHint

_logger = logging.getLogger(__name__)

_ROUTES: Final[Mapping[str, Callable[[Event], Routing]]] = {
    "job_created": lambda event: event.job_created.routing,
    "attempt_failed": lambda event: event.attempt_failed.routing,
    "attempt_returned": lambda event: event.attempt_returned.routing,
}
_STATES: Final[Mapping[str, JobState.ValueType]] = {
    "attempt_begun": JOB_STATE_RUNNING,
    "job_succeeded": JOB_STATE_SUCCEEDED,
    "job_failed": JOB_STATE_FAILED,
    "job_cancelled": JOB_STATE_CANCELLED,
    "job_dead_lettered": JOB_STATE_DEAD_LETTERED,
}
_TERMINAL: Final = frozenset(
    {JOB_STATE_SUCCEEDED, JOB_STATE_FAILED, JOB_STATE_CANCELLED, JOB_STATE_DEAD_LETTERED}
)

_UNROUTABLE: Final = "a job cannot be queued"

_Change: TypeAlias = tuple[int, JobState.ValueType, str]
"""Sequence of a job's newest event so far, state after it, client."""


@dataclass(slots=True)
class Plan:
    """What follows from some blocks: messages in the order of their events, one hint a changed job."""

    publications: list[Publication] = field(default_factory=list)
    hints: list[JobHint] = field(default_factory=list)
    cancels: list[JobHint] = field(default_factory=list)
    pools: set[str] = field(default_factory=set)


class Router:
    """Makes plans for one generation of the stream. Times are microseconds since the epoch."""

    def __init__(self, generation: str) -> None:
        self._generation = generation

    def plan(self, blocks: Iterable[Block], now: int) -> Plan:
        """Return what follows from blocks.

        A job that reached its end within them is not queued; whatever else is stale is harmless, because the
        ledger refuses it.
        """
        plan = Plan()
        changes: dict[str, _Change] = {}
        runnable: list[tuple[Event, Routing]] = []
        for block in blocks:
            for data in block.events:
                event = Event.FromString(data)
                kind = event.WhichOneof("payload") or ""
                route = _ROUTES.get(kind)
                if route is not None:
                    routing = route(event)
                    runnable.append((event, routing))
                    later = routing.run_time_micros > now
                    state = JOB_STATE_SCHEDULED if later else JOB_STATE_QUEUED
                elif kind in _STATES:
                    state = _STATES[kind]
                else:
                    if kind == "cancel_requested":
                        plan.cancels.append(
                            _hint(event.job_id, (event.seq, JOB_STATE_RUNNING, event.client_id))
                        )
                    continue
                job_id, seq = event.job_id, event.seq
                known = changes.get(job_id)
                if known is None or known[0] < seq:
                    changes[job_id] = (seq, state, event.client_id)
        # Nobody can watch a job that is just being created: its first event is no news.
        plan.hints.extend(_hint(job_id, change) for job_id, change in changes.items() if change[0] > 1)
        for event, routing in runnable:
            last, state, _ = changes[event.job_id]
            if state not in _TERMINAL or event.seq > last:
                self._queue(plan, event, routing, now)
        return plan

    def live(self, job: LiveJob, now: int) -> Publication | None:
        """Return a live job's message: for now, its time, or its lease's end; None if it waits."""
        if job.state not in (JOB_STATE_SCHEDULED, JOB_STATE_QUEUED, JOB_STATE_RUNNING):
            return None
        try:
            return self.publication(live_dispatch(job), job.routing.run_time_micros, now)
        except ValueError:
            _logger.exception(_UNROUTABLE, extra={"action": "route_invalid", "job_id": job.job_id})
            return None

    def publication(self, dispatch: Dispatch, run_time: int, now: int) -> Publication:
        """Return the first message of a dispatch, for its lane or for a later time.

        The stream takes it once: its id (Nats-Msg-Id) is `<generation>:<job>:<dispatch>`.
        """
        payload = dispatch.SerializeToString()
        name = f"{self._generation}:{dispatch.job_id}:{dispatch.dispatch}"
        if run_time > now:
            return delayed(dispatch, payload, run_time, message_id=name)
        return Publication(
            job_subject(dispatch.pool, dispatch.lane), payload, b"Nats-Msg-Id: %b\r\n" % name.encode()
        )

    def _queue(self, plan: Plan, event: Event, routing: Routing, now: int) -> None:
        dispatch = Dispatch(
            job_id=event.job_id,
            dispatch=routing.dispatch,
            client_id=event.client_id,
            pool=routing.pool,
            lane=routing.lane,
            agent=routing.agent,
            version=routing.version,
            fairness_key=routing.fairness_key,
            deadline_micros=routing.deadline_micros,
            runnable_time_micros=max(routing.run_time_micros, event.time_micros),
            traceparent=event.traceparent,
        )
        try:
            plan.publications.append(self.publication(dispatch, routing.run_time_micros, now))
        except ValueError:
            # The ledger takes no such job. One bad event must not hold up all that come after it.
            _logger.exception(_UNROUTABLE, extra={"action": "route_invalid", "job_id": event.job_id})
        else:
            plan.pools.add(routing.pool)


def live_dispatch(job: LiveJob) -> Dispatch:
    """Return the dispatch of a live job."""
    routing = job.routing
    return Dispatch(
        job_id=job.job_id,
        dispatch=routing.dispatch,
        client_id=job.client_id,
        pool=routing.pool,
        lane=routing.lane,
        agent=routing.agent,
        version=routing.version,
        fairness_key=routing.fairness_key,
        deadline_micros=routing.deadline_micros,
        runnable_time_micros=job.runnable_time_micros,
        traceparent=job.traceparent,
    )


def _hint(job_id: str, change: _Change) -> JobHint:
    seq, state, client_id = change
    return JobHint(job_id=job_id, client_id=client_id, seq=seq, state=state)
