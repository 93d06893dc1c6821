"""What events mean for the queues."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from services.scheduler.routing import Plan, Router
from workmesh.common.v1 import job_pb2 as states
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import (
    AttemptBegun,
    AttemptFailed,
    AttemptReturned,
    CancelRequested,
    DefinitionApplied,
    Event,
    JobCancelled,
    JobCreated,
    JobDeadLettered,
    JobFailed,
    JobSucceeded,
    Routing,
    StepsRecorded,
)
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

NOW = 1_795_355_458_000_000
JOB = "018f0000-0000-7000-8000-000000000001"
OTHER = "018f0000-0000-7000-8000-000000000002"


def routing(dispatch: int = 1, run_time: int = 0, pool: str = "default") -> Routing:
    return Routing(
        dispatch=dispatch,
        pool=pool,
        lane=states.LANE_CRITICAL,
        agent="worker",
        version=2,
        fairness_key="key",
        run_time_micros=run_time,
        deadline_micros=NOW + 5,
    )


def event(seq: int, payload: object, job_id: str = JOB) -> bytes:
    made = Event(job_id=job_id, seq=seq, time_micros=NOW - 10, client_id="client", traceparent="trace")
    field = next(each.name for each in Event.DESCRIPTOR.oneofs[0].fields if _is(each, payload))
    getattr(made, field).CopyFrom(payload)
    return made.SerializeToString()


def _is(field: object, payload: object) -> bool:
    return field.message_type is payload.DESCRIPTOR  # type: ignore[attr-defined]


def plan(*events: bytes) -> Plan:
    return Router("gen").plan([Block(chain=1, height=1, events=[each]) for each in events], NOW)


def subjects(planned: Plan) -> Sequence[str]:
    return [each.subject for each in planned.publications]


def test_a_created_job_goes_to_its_lane_under_an_id_of_generation_job_and_dispatch() -> None:
    planned = plan(event(1, JobCreated(routing=routing())))
    (message,) = planned.publications
    assert message.subject == "jobs.default.critical.0"
    assert message.headers == f"Nats-Msg-Id: gen:{JOB}:1\r\n".encode()
    assert Dispatch.FromString(message.payload) == Dispatch(
        job_id=JOB,
        dispatch=1,
        client_id="client",
        pool="default",
        lane=states.LANE_CRITICAL,
        agent="worker",
        version=2,
        fairness_key="key",
        deadline_micros=NOW + 5,
        runnable_time_micros=NOW - 10,
        traceparent="trace",
    )
    assert planned.pools == {"default"}
    assert planned.hints == []


@pytest.mark.parametrize(
    "payload",
    [
        JobCreated(routing=routing(run_time=NOW + 1)),
        AttemptFailed(routing=routing(2, NOW + 1)),
        AttemptReturned(routing=routing(2, NOW + 1)),
    ],
)
def test_what_may_run_later_is_scheduled(payload: object) -> None:
    planned = plan(event(2, payload))
    (message,) = planned.publications
    assert message.subject.startswith(f"delay.{JOB}.")
    assert b"Nats-Msg-Id: gen:" in message.headers
    assert [hint.state for hint in planned.hints] == [states.JOB_STATE_SCHEDULED]


def test_a_run_time_that_has_passed_means_at_once() -> None:
    planned = plan(event(3, AttemptFailed(routing=routing(2, NOW))))
    assert subjects(planned) == ["jobs.default.critical.0"]
    assert [hint.state for hint in planned.hints] == [states.JOB_STATE_QUEUED]


def test_a_job_that_ends_in_the_same_round_is_not_queued() -> None:
    planned = plan(
        event(1, JobCreated(routing=routing())),
        event(2, AttemptBegun(epoch=1)),
        event(3, JobSucceeded(epoch=1)),
        event(1, JobCreated(routing=routing()), OTHER),
    )
    assert [Dispatch.FromString(each.payload).job_id for each in planned.publications] == [OTHER]


def test_what_comes_after_the_end_in_the_jobs_own_order_is_queued() -> None:
    # A redrive: on another chain, and read first.
    planned = plan(event(5, AttemptReturned(routing=routing(3))), event(4, JobDeadLettered()))
    assert len(planned.publications) == 1
    assert [hint.state for hint in planned.hints] == [states.JOB_STATE_QUEUED]


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        (AttemptBegun(), states.JOB_STATE_RUNNING),
        (JobSucceeded(), states.JOB_STATE_SUCCEEDED),
        (JobFailed(), states.JOB_STATE_FAILED),
        (JobCancelled(), states.JOB_STATE_CANCELLED),
        (JobDeadLettered(), states.JOB_STATE_DEAD_LETTERED),
    ],
)
def test_each_change_of_state_is_hinted(payload: object, state: states.JobState.ValueType) -> None:
    (hint,) = plan(event(7, payload)).hints
    assert (hint.job_id, hint.client_id, hint.seq, hint.state) == (JOB, "client", 7, state)


def test_of_several_changes_the_newest_is_hinted() -> None:
    planned = plan(event(3, JobSucceeded()), event(2, AttemptBegun()))
    assert [(hint.seq, hint.state) for hint in planned.hints] == [(3, states.JOB_STATE_SUCCEEDED)]


def test_what_changes_no_state_says_nothing() -> None:
    planned = plan(event(4, StepsRecorded(epoch=1)), event(0, DefinitionApplied(), ""))
    assert planned == Plan()


def test_a_requested_cancellation_is_told_apart() -> None:
    planned = plan(event(4, CancelRequested(reason="enough")))
    assert [cancel.job_id for cancel in planned.cancels] == [JOB]
    assert planned.hints == []


def test_one_event_that_cannot_be_routed_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    planned = plan(
        event(1, JobCreated(routing=routing(pool="no.pool"))), event(1, JobCreated(routing=routing()), OTHER)
    )
    assert [Dispatch.FromString(each.payload).job_id for each in planned.publications] == [OTHER]
    assert planned.pools == {"default"}
    assert "cannot be queued" in caplog.text


@pytest.mark.parametrize(
    ("state", "run_time", "subject"),
    [
        (states.JOB_STATE_QUEUED, 0, "jobs.default.critical.0"),
        (states.JOB_STATE_SCHEDULED, NOW + 1, f"delay.{JOB}.4"),
        (states.JOB_STATE_RUNNING, NOW + 1, f"delay.{JOB}.4"),
        (states.JOB_STATE_RUNNING, NOW - 1, "jobs.default.critical.0"),
        (states.JOB_STATE_WAITING, 0, None),
        (states.JOB_STATE_PAUSED, 0, None),
    ],
)
def test_a_live_job_is_queued_by_its_state(
    state: states.JobState.ValueType, run_time: int, subject: str | None
) -> None:
    job = LiveJob(job_id=JOB, routing=routing(4, run_time), state=state)
    message = Router("gen").live(job, NOW)
    assert (message.subject if message else None) == subject
