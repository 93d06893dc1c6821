from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import attempts, jobs
from services.ledger.items import Begin, Granted, Refused
from services.ledger.jobs import JobRow
from tests.unit.ledger.jobs import ALLOWANCE, JOB_ID, LEASE, LEASE_ID, NOW, RULES, job, running
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal

R = AttemptRefusal
OTHER_LEASE = "01890000-0000-7000-8000-0000000000bb"
LOST = NOW - ALLOWANCE - 1


def offer(dispatch: int = 1, lease_id: str = OTHER_LEASE) -> Begin:
    return Begin(JOB_ID, dispatch, lease_id, "agent-2")


def types(decision: Any) -> list[str]:
    return [event.WhichOneof("payload") for event in decision.events]


GRANTED: dict[str, tuple[JobRow, list[str]]] = {
    "queued": (job(), ["attempt_begun"]),
    "scheduled and due": (job(state=jobs.SCHEDULED, run_time_micros=NOW), ["attempt_begun"]),
    "the last attempt": (job(attempt=2), ["attempt_begun"]),
    "due before its deadline": (job(deadline_micros=NOW + 1), ["attempt_begun"]),
    "its holder is gone": (running(lease_expire_micros=LOST), ["attempt_lost", "attempt_begun"]),
    "the allowance ends now": (
        running(lease_expire_micros=NOW - ALLOWANCE),
        ["attempt_lost", "attempt_begun"],
    ),
}


@pytest.mark.parametrize("case", GRANTED)
def test_a_job_that_may_run_is_granted_under_the_next_epoch(case: str) -> None:
    before, expected = GRANTED[case]
    decision = attempts.begin(before, offer(before.dispatch), NOW, RULES)
    after = decision.job
    assert isinstance(decision.outcome, Granted)
    assert after is not None
    assert decision.outcome.job == after
    assert types(decision) == expected
    assert (after.epoch, after.attempt) == (before.epoch + 1, before.attempt + 1)
    assert (after.state, after.lease_id, after.instance) == (jobs.RUNNING, OTHER_LEASE, "agent-2")
    assert after.lease_expire_micros == NOW + LEASE
    assert after.seq == before.seq + len(expected)
    assert [event.seq for event in decision.events] == list(range(before.seq + 1, after.seq + 1))


REFUSED: dict[str, tuple[JobRow | None, Begin, Any, int]] = {
    "unknown": (None, offer(), R.REASON_TERMINAL, 0),
    "succeeded": (job(state=jobs.SUCCEEDED), offer(), R.REASON_TERMINAL, 0),
    "dead-lettered": (job(state=jobs.DEAD_LETTERED), offer(), R.REASON_TERMINAL, 0),
    "another dispatch": (job(dispatch=2), offer(1), R.REASON_SUPERSEDED, 0),
    "a dispatch to come": (job(dispatch=1), offer(2), R.REASON_SUPERSEDED, 0),
    "held": (running(), offer(), R.REASON_LEASE_HELD, NOW + LEASE // 2 + ALLOWANCE),
    "within the allowance": (
        running(lease_expire_micros=NOW - ALLOWANCE + 1),
        offer(),
        R.REASON_LEASE_HELD,
        NOW + 1,
    ),
    "its own lease, over": (
        running(lease_expire_micros=NOW),
        offer(lease_id=LEASE_ID),
        R.REASON_LEASE_HELD,
        NOW + ALLOWANCE,
    ),
    "early": (job(state=jobs.SCHEDULED, run_time_micros=NOW + 1), offer(), R.REASON_NOT_DUE, NOW + 1),
    "paused": (job(state=jobs.PAUSED), offer(), R.REASON_PAUSED, 0),
    "waiting": (job(state=jobs.WAITING), offer(), R.REASON_PAUSED, 0),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_job_that_may_not_run_is_refused_and_left_alone(case: str) -> None:
    before, item, reason, retry_time = REFUSED[case]
    decision = attempts.begin(before, item, NOW, RULES)
    assert decision.outcome == Refused(reason, retry_time)
    assert decision.job is None
    assert list(decision.events) == []


ENDED: dict[str, tuple[JobRow, Any, list[str]]] = {
    "past its deadline": (job(deadline_micros=NOW), jobs.FAILED, ["job_failed"]),
    "past its deadline before its time": (
        job(state=jobs.SCHEDULED, run_time_micros=NOW + 9, deadline_micros=NOW),
        jobs.FAILED,
        ["job_failed"],
    ),
    "cancelled and its holder gone": (
        running(lease_expire_micros=LOST, cancel_requested=True, cancel_reason="storm", deadline_micros=1),
        jobs.CANCELLED,
        ["attempt_lost", "job_cancelled"],
    ),
    "lost past its deadline": (
        running(lease_expire_micros=LOST, deadline_micros=NOW - 1),
        jobs.FAILED,
        ["attempt_lost", "job_failed"],
    ),
    "lost on its last attempt": (
        running(lease_expire_micros=LOST, attempt=3),
        jobs.DEAD_LETTERED,
        ["attempt_lost", "job_dead_lettered"],
    ),
}


@pytest.mark.parametrize("case", ENDED)
def test_a_job_that_cannot_go_on_is_ended_and_refused(case: str) -> None:
    before, state, expected = ENDED[case]
    decision = attempts.begin(before, offer(), NOW, RULES)
    assert decision.outcome == Refused(R.REASON_TERMINAL)
    assert decision.job is not None
    assert decision.job.state == state
    assert decision.job.lease_id is None
    assert (decision.job.fingerprint is not None) == (state == jobs.DEAD_LETTERED)
    assert types(decision) == expected
    assert {event.actor.id for event in decision.events} == {"ledger"}


def test_the_same_lease_gets_the_same_grant_without_a_change() -> None:
    before = running()
    decision = attempts.begin(before, offer(dispatch=7, lease_id=LEASE_ID), NOW, RULES)
    assert decision.outcome == Granted(before, NOW)
    assert decision.job is None


STATES = st.sampled_from([*range(1, 10)])


@given(
    state=STATES,
    attempt=st.integers(0, 3),
    dispatch=st.integers(1, 3),
    offered=st.integers(1, 3),
    lease_end=st.integers(-2 * ALLOWANCE, 2 * ALLOWANCE),
    run_time=st.sampled_from([0, NOW - 1, NOW, NOW + 1]),
    deadline=st.sampled_from([0, NOW - 1, NOW, NOW + 1]),
    cancel=st.booleans(),
    same_lease=st.booleans(),
)
def test_whatever_is_offered_the_promises_hold(
    state: Any,
    attempt: int,
    dispatch: int,
    offered: int,
    lease_end: int,
    run_time: int,
    deadline: int,
    cancel: bool,
    same_lease: bool,
) -> None:
    held = state == jobs.RUNNING
    before = job(
        state=state,
        attempt=max(attempt, 1) if held else attempt,
        epoch=max(attempt, 1) if held else attempt,
        dispatch=dispatch,
        run_time_micros=0 if held else run_time,
        deadline_micros=deadline,
        lease_id=LEASE_ID if held else None,
        lease_expire_micros=NOW + lease_end if held else 0,
        cancel_requested=cancel and held,
    )
    item = offer(offered, LEASE_ID if same_lease else OTHER_LEASE)
    decision = attempts.begin(before, item, NOW, RULES)
    after = decision.job
    if after is None:
        assert list(decision.events) == []
        return
    # A job in another's hands, ended, or offered under another number is never touched.
    assert before.state not in (*jobs.TERMINAL, jobs.WAITING, jobs.PAUSED)
    assert before.dispatch == offered
    assert not (held and before.lease_expire_micros + ALLOWANCE > NOW)
    # The job's own history goes on without a gap.
    assert [event.seq for event in decision.events] == list(range(before.seq + 1, after.seq + 1))
    # Whoever is granted has attempts and time left, and the epoch never goes back.
    assert after.epoch - before.epoch == isinstance(decision.outcome, Granted)
    assert after.attempt <= after.max_attempts
    if isinstance(decision.outcome, Granted):
        assert not before.cancel_requested
        assert before.run_time_micros <= NOW
        assert before.deadline_micros == 0 or before.deadline_micros > NOW
    else:
        assert after.state in jobs.TERMINAL
    assert (after.state == jobs.RUNNING) == (after.lease_id is not None)
