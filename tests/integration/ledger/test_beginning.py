from __future__ import annotations

import pytest

from tests.integration.ledger.harness import (
    ALLOWANCE_SECONDS,
    LEASE_SECONDS,
    POLICY,
    SIGNING_KEY,
    Ledger,
    new_job,
    reason,
    step,
)
from workmesh.clock import SystemClock
from workmesh.common.v1 import job_pb2
from workmesh.common.v1.job_pb2 import RetryPolicy
from workmesh.errors import MeshError
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.tokens import TokenSigner, TokenVerifier

Refusal = pb.AttemptRefusal
OVER = LEASE_SECONDS + ALLOWANCE_SECONDS + 0.1


async def test_a_grant_carries_the_job_its_input_and_a_lease(ledger: Ledger) -> None:
    job = new_job(labels={"trade": "asia"}, traceparent=f"00-{'a' * 32}-{'b' * 16}-01")
    await ledger.create(job)
    grant = (await ledger.begin(job.job_id, lease=(lease := uuid7()))).grant
    assert grant.lease_id == lease
    assert (grant.job.epoch, grant.job.attempt, grant.job.series, grant.job.seq) == (1, 1, 1, 2)
    assert grant.job.state == job_pb2.JOB_STATE_RUNNING
    assert grant.job.input == job.input
    assert grant.job.instance == "agent-1"
    assert grant.job.retry_policy == POLICY
    assert dict(grant.job.labels) == {"trade": "asia"}
    assert grant.job.lease_expire_micros - grant.job.update_time_micros == LEASE_SECONDS * 1e6
    assert list(grant.journal) == []
    event = (await ledger.history(job.job_id))[1]
    assert event.attempt_begun.lease_id == lease
    assert (event.actor.id, event.actor.instance, event.actor.version) == ("booking", "agent-1", 1)


async def test_one_token_covers_all_grants_and_only_the_definitions_tools(ledger: Ledger) -> None:
    jobs = [await ledger.job() for _ in range(3)]
    offers = [pb.BeginAttempt(job_id=job, dispatch=1, lease_id=uuid7()) for job in [*jobs, uuid7()]]
    response = await ledger.call("BeginAttempts", attempts=offers, instance="agent-1")
    verifier = TokenVerifier(bytes(TokenSigner(SIGNING_KEY)._key.verify_key), SystemClock())
    claims = verifier.verify(response.token)
    assert [(each.job_id, each.epoch, each.series) for each in claims.grants] == [(job, 1, 1) for job in jobs]
    assert claims.expire_time_micros == min(
        each.grant.job.lease_expire_micros for each in response.results[:3]
    )
    verifier.permit(response.token.token_id, jobs[0], "carrier.get_rate")
    with pytest.raises(MeshError, match="TOOL_NOT_ALLOWED"):
        verifier.permit(response.token.token_id, jobs[0], "erp.delete_order")


async def test_the_same_lease_gets_the_same_grant_while_it_is_current(ledger: Ledger) -> None:
    job_id, lease = await ledger.job(), uuid7()
    first = await ledger.begin(job_id, lease=lease)
    assert await ledger.begin(job_id, lease=lease) == first
    assert await ledger.types(job_id) == ["job_created", "attempt_begun"]
    await ledger.age(job_id, LEASE_SECONDS)
    assert (await ledger.begin(job_id, lease=lease)).refusal.reason == Refusal.REASON_LEASE_HELD


async def test_another_lease_waits_for_the_end_and_the_allowance(ledger: Ledger) -> None:
    job_id = await ledger.job()
    end = (await ledger.begin(job_id)).grant.job.lease_expire_micros
    refusal = (await ledger.begin(job_id)).refusal
    assert refusal.reason == Refusal.REASON_LEASE_HELD
    assert refusal.retry_time_micros == end + ALLOWANCE_SECONDS * 1e6
    await ledger.age(job_id, LEASE_SECONDS + ALLOWANCE_SECONDS / 2)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_LEASE_HELD


async def test_a_lost_attempt_is_noted_and_counts(ledger: Ledger) -> None:
    job_id = await ledger.job()
    await ledger.begin(job_id, instance="agent-lost")
    await ledger.age(job_id, OVER)
    job = (await ledger.begin(job_id)).grant.job
    assert (job.epoch, job.attempt, job.seq) == (2, 2, 4)
    assert await ledger.types(job_id) == ["job_created", "attempt_begun", "attempt_lost", "attempt_begun"]
    lost = (await ledger.history(job_id))[2].attempt_lost
    assert (lost.epoch, lost.attempt, lost.instance) == (1, 1, "agent-lost")


async def test_the_third_lost_attempt_of_three_dead_letters_the_job(ledger: Ledger) -> None:
    job_id = await ledger.job()
    for _ in range(POLICY.max_attempts):
        assert (await ledger.begin(job_id)).HasField("grant")
        await ledger.age(job_id, OVER)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_TERMINAL
    row = await ledger.row(job_id)
    assert row["state"] == job_pb2.JOB_STATE_DEAD_LETTERED
    letter = (await ledger.history(job_id))[-1]
    assert reason(letter.job_dead_lettered.error) == "RETRIES_EXHAUSTED"
    assert letter.job_dead_lettered.fingerprint == row["fingerprint"]
    assert (await ledger.types(job_id))[-2:] == ["attempt_lost", "job_dead_lettered"]
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_TERMINAL


@pytest.mark.parametrize("dispatch", [2, 7])
async def test_another_dispatch_is_superseded(ledger: Ledger, dispatch: int) -> None:
    job_id = await ledger.job()
    assert (await ledger.begin(job_id, dispatch=dispatch)).refusal.reason == Refusal.REASON_SUPERSEDED
    assert await ledger.types(job_id) == ["job_created"]


async def test_a_job_is_refused_before_its_time_and_granted_after(ledger: Ledger) -> None:
    run_time = 4_000_000_000_000_000
    job_id = await ledger.job(run_time_micros=run_time)
    refusal = (await ledger.begin(job_id)).refusal
    assert (refusal.reason, refusal.retry_time_micros) == (Refusal.REASON_NOT_DUE, run_time)
    await ledger.age(job_id, 3_000_000_000)
    assert (await ledger.begin(job_id)).HasField("grant")


async def test_unknown_and_ended_jobs_are_terminal(ledger: Ledger) -> None:
    assert (await ledger.begin(uuid7())).refusal.reason == Refusal.REASON_TERMINAL
    attempt = await ledger.running()
    await ledger.commit(attempt)
    assert (await ledger.begin(attempt.job_id)).refusal.reason == Refusal.REASON_TERMINAL


async def test_a_job_past_its_deadline_fails_when_it_is_offered(ledger: Ledger) -> None:
    job_id = await ledger.job(deadline_micros=1)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_TERMINAL
    assert (await ledger.row(job_id))["state"] == job_pb2.JOB_STATE_FAILED
    failed = (await ledger.history(job_id))[-1]
    assert reason(failed.job_failed.error) == "DEADLINE_EXCEEDED"
    assert failed.actor.id == "ledger"


async def test_a_paused_job_is_refused(ledger: Ledger) -> None:
    job_id = await ledger.job()
    await ledger.sql("update jobs set state = $2 where job_id = $1", job_id, job_pb2.JOB_STATE_PAUSED)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_PAUSED


async def test_a_cancelled_job_whose_holder_is_gone_ends_cancelled(ledger: Ledger) -> None:
    job_id = await ledger.job()
    await ledger.begin(job_id)
    await ledger.cancel(job_id, reason="no longer wanted")
    await ledger.age(job_id, OVER)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_TERMINAL
    assert (await ledger.types(job_id))[-3:] == ["cancel_requested", "attempt_lost", "job_cancelled"]
    assert (await ledger.history(job_id))[-1].job_cancelled.reason == "no longer wanted"


async def test_the_next_attempt_gets_the_journal_in_order(ledger: Ledger) -> None:
    attempt = await ledger.running()
    steps = [step("1"), step("2/1", result={"rate": 7}), step("2")]
    assert reason((await ledger.record(attempt, steps[0])).status) == ""
    assert reason((await ledger.record(attempt, *steps[1:])).status) == ""
    await ledger.age(attempt.job_id, OVER)
    lease = uuid7()
    grant = (await ledger.begin(attempt.job_id, lease=lease)).grant
    assert list(grant.journal) == steps
    assert list((await ledger.begin(attempt.job_id, lease=lease)).grant.journal) == steps


async def test_two_offers_of_one_job_in_a_batch_give_one_grant(ledger: Ledger) -> None:
    job_id = await ledger.job()
    offers = [pb.BeginAttempt(job_id=job_id, dispatch=1, lease_id=uuid7()) for _ in range(2)]
    response = await ledger.call("BeginAttempts", attempts=offers, instance="agent-1")
    assert response.results[0].HasField("grant")
    assert response.results[1].refusal.reason == Refusal.REASON_LEASE_HELD


async def test_grants_that_fit_no_message_are_given_in_parts(ledger: Ledger) -> None:
    body = b'{"text":"%s"}' % (b"x" * ((1 << 20) - 100))
    jobs = [await ledger.job(input=body) for _ in range(5)]
    offers = [pb.BeginAttempt(job_id=job, dispatch=1, lease_id=uuid7()) for job in jobs]
    with pytest.raises(MeshError, match="LIMIT_EXCEEDED"):
        await ledger.call("BeginAttempts", attempts=offers, instance="agent-1")
    for part in (offers[:3], offers[3:]):
        response = await ledger.call("BeginAttempts", attempts=part, instance="agent-1")
        assert [each.grant.job.input == body for each in response.results] == [True] * len(part)
        assert {each.grant.job.epoch for each in response.results} == {1}


async def test_leases_are_renewed_only_while_they_last(ledger: Ledger) -> None:
    kept, late, stale = [await ledger.running() for _ in range(3)]
    await ledger.age(late.job_id, LEASE_SECONDS)
    await ledger.age(stale.job_id, OVER)
    await ledger.begin(stale.job_id)
    before = (await ledger.row(kept.job_id))["lease_expire_micros"]
    await ledger.cancel(kept.job_id)
    response = await ledger.call("RenewLeases", attempts=[kept, late, stale], instance="agent-1")
    assert [reason(each.status) for each in response.results] == ["", "LEASE_EXPIRED", "STALE_EPOCH"]
    assert [each.cancel_requested for each in response.results] == [True, False, False]
    assert (await ledger.row(kept.job_id))["lease_expire_micros"] > before
    verifier = TokenVerifier(bytes(TokenSigner(SIGNING_KEY)._key.verify_key), SystemClock())
    assert [each.job_id for each in verifier.verify(response.token).grants] == [kept.job_id]


async def test_a_policy_of_one_attempt_allows_one(ledger: Ledger) -> None:
    policy = RetryPolicy()
    policy.CopyFrom(POLICY)
    policy.max_attempts = 1
    job_id = await ledger.job(retry_policy=policy)
    await ledger.begin(job_id)
    await ledger.age(job_id, OVER)
    assert (await ledger.begin(job_id)).refusal.reason == Refusal.REASON_TERMINAL
    assert (await ledger.row(job_id))["state"] == job_pb2.JOB_STATE_DEAD_LETTERED
