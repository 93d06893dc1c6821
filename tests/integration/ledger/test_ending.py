from __future__ import annotations

import pytest

from tests.integration.ledger.harness import (
    ALLOWANCE_SECONDS,
    LEASE_SECONDS,
    POLICY,
    Ledger,
    error,
    reason,
    state,
    step,
)
from workmesh.chain import digest
from workmesh.common.v1 import job_pb2
from workmesh.common.v1.job_pb2 import RetryPolicy
from workmesh.errors import from_status
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb

Verdict = pb.FailAttempt
OVER = LEASE_SECONDS + ALLOWANCE_SECONDS + 0.1


async def test_a_commit_stores_output_steps_state_and_history_together(ledger: Ledger) -> None:
    attempt = await ledger.running(client_id=ledger.client)
    writes = [state("S1", {"eta": 1}), state("S2", [2])]
    result = await ledger.commit(attempt, output=b'{"order":7}', steps=[step("1")], state_writes=writes)
    assert reason(result.status) == ""
    row = await ledger.row(attempt.job_id)
    assert row["state"] == job_pb2.JOB_STATE_SUCCEEDED
    assert (row["lease_id"], row["instance"], row["lease_expire_micros"]) == (None, "", 0)
    bodies = await ledger.sql(
        "select body from job_bodies where job_id = $1 and kind = 'output'", attempt.job_id
    )
    assert bodies[0][0] == b'{"order":7}'
    versions = await ledger.sql(
        "select key, version, body from state_versions where client_id = $1", ledger.client
    )
    assert sorted(tuple(each) for each in versions) == [("S1", 1, b'{"eta":1}'), ("S2", 1, b"[2]")]
    history = await ledger.history(attempt.job_id)
    assert await ledger.types(attempt.job_id) == [
        "job_created",
        "attempt_begun",
        "state_written",
        "state_written",
        "job_succeeded",
    ]
    assert history[-1].job_succeeded.output_digest == digest(b'{"order":7}')
    assert [each.step for each in history[-1].job_succeeded.steps] == ["1"]
    assert history[2].state_written.body_digest == digest(b'{"eta":1}')


async def test_a_repeated_commit_is_ok_and_changes_nothing(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.commit(attempt, output=b'{"first":1}')
    assert reason((await ledger.commit(attempt, output=b'{"second":2}')).status) == ""
    assert (await ledger.types(attempt.job_id)).count("job_succeeded") == 1


async def test_a_stale_epoch_cannot_commit_fail_or_record(ledger: Ledger) -> None:
    stale = await ledger.running()
    await ledger.age(stale.job_id, OVER)
    successor = (await ledger.begin(stale.job_id)).grant.job
    refused = await ledger.commit(stale, steps=[step("1")], state_writes=[state("stale", 1)])
    assert reason(refused.status) == "STALE_EPOCH"
    assert from_status(refused.status).metadata["current_epoch"] == "2"
    assert reason((await ledger.fail(stale)).status) == "STALE_EPOCH"
    assert reason((await ledger.record(stale, step("1"))).status) == "STALE_EPOCH"
    assert await ledger.sql("select 1 from steps where job_id = $1", stale.job_id) == []
    assert await ledger.sql("select 1 from state_documents where key = 'stale'") == []
    attempt = pb.AttemptRef(job_id=stale.job_id, epoch=successor.epoch)
    assert reason((await ledger.commit(attempt)).status) == ""


async def test_an_epoch_that_was_never_granted_cannot_commit(ledger: Ledger) -> None:
    attempt = await ledger.running()
    future = pb.AttemptRef(job_id=attempt.job_id, epoch=attempt.epoch + 1)
    assert reason((await ledger.commit(future)).status) == "STALE_EPOCH"


async def test_an_attempt_may_commit_after_its_lease_while_nobody_superseded_it(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.age(attempt.job_id, OVER)
    assert reason((await ledger.commit(attempt)).status) == ""


async def test_a_request_to_cancel_does_not_prevent_a_commit(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.cancel(attempt.job_id)
    assert reason((await ledger.commit(attempt)).status) == ""
    assert (await ledger.row(attempt.job_id))["state"] == job_pb2.JOB_STATE_SUCCEEDED


async def test_a_failed_attempt_is_retried_within_the_policys_bound(ledger: Ledger) -> None:
    attempt = await ledger.running()
    result = await ledger.fail(attempt, steps=[step("1")])
    assert result.state == job_pb2.JOB_STATE_SCHEDULED
    row = await ledger.row(attempt.job_id)
    assert (row["dispatch"], row["attempt"], row["epoch"], row["lease_id"]) == (2, 1, 1, None)
    assert 0 < row["run_time_micros"] - row["update_time_micros"] <= 1_000_000
    failed = (await ledger.history(attempt.job_id))[-1].attempt_failed
    assert (failed.attempt, failed.epoch) == (1, 1)
    assert reason(failed.error) == "INTEGRATION_FAILED"
    assert failed.routing.dispatch == 2
    assert failed.routing.run_time_micros == row["run_time_micros"]
    assert [each.step for each in failed.steps] == ["1"]
    await ledger.age(attempt.job_id, 2)
    assert (await ledger.begin(attempt.job_id)).refusal.reason == pb.AttemptRefusal.REASON_SUPERSEDED
    grant = (await ledger.begin(attempt.job_id, dispatch=2)).grant
    assert (grant.job.epoch, grant.job.attempt) == (2, 2)
    assert [each.step for each in grant.journal] == ["1"]
    assert reason(grant.job.error) == "INTEGRATION_FAILED"


async def test_a_repeated_report_gets_the_state_and_changes_nothing(ledger: Ledger) -> None:
    attempt = await ledger.running()
    first = await ledger.fail(attempt)
    assert await ledger.fail(attempt) == first
    assert (await ledger.types(attempt.job_id)).count("attempt_failed") == 1
    committed = await ledger.commit(attempt)
    assert reason(committed.status) == "STALE_EPOCH"


async def test_retry_after_is_a_lower_bound(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.fail(attempt, retry_after_micros=45_000_000)
    row = await ledger.row(attempt.job_id)
    assert row["run_time_micros"] - row["update_time_micros"] == 45_000_000


async def test_the_last_attempt_dead_letters_with_the_last_error(ledger: Ledger) -> None:
    attempt = await ledger.running()
    for dispatch in (2, 3):
        await ledger.fail(attempt, error=error(message=f"carrier {dispatch} is down"))
        await ledger.age(attempt.job_id, 200)
        job = (await ledger.begin(attempt.job_id, dispatch=dispatch)).grant.job
        attempt = pb.AttemptRef(job_id=attempt.job_id, epoch=job.epoch)
    result = await ledger.fail(attempt, error=error(message="carrier 99 is down"))
    assert result.state == job_pb2.JOB_STATE_DEAD_LETTERED
    letter = (await ledger.history(attempt.job_id))[-1].job_dead_lettered
    assert letter.error.message == "carrier 99 is down"
    assert from_status(letter.error).reason == "INTEGRATION_FAILED"
    assert from_status(letter.error).metadata["attempts"] == "3"
    other = await ledger.running()
    await ledger.fail(other, Verdict.VERDICT_DEAD_LETTER, error=error(message="carrier 4 is down"))
    assert (await ledger.row(other.job_id))["fingerprint"] == letter.fingerprint


async def test_a_non_retryable_reason_dead_letters_at_once(ledger: Ledger) -> None:
    policy = RetryPolicy()
    policy.CopyFrom(POLICY)
    policy.non_retryable_reasons.append("INTEGRATION_REFUSED")
    attempt = await ledger.running(retry_policy=policy)
    result = await ledger.fail(attempt, error=error("INTEGRATION_REFUSED"))
    assert result.state == job_pb2.JOB_STATE_DEAD_LETTERED


async def test_no_retry_is_scheduled_past_the_deadline(ledger: Ledger) -> None:
    attempt = await ledger.running(deadline_micros=4_000_000_000_000_000)
    now = (await ledger.row(attempt.job_id))["update_time_micros"]
    await ledger.sql(
        "update jobs set deadline_micros = $2 where job_id = $1", attempt.job_id, now + 30_000_000
    )
    result = await ledger.fail(attempt, retry_after_micros=60_000_000)
    assert result.state == job_pb2.JOB_STATE_FAILED
    failed = (await ledger.history(attempt.job_id))[-1].job_failed
    assert from_status(failed.error).reason == "DEADLINE_EXCEEDED"
    assert from_status(failed.error).metadata["last_reason"] == "INTEGRATION_FAILED"


async def test_a_business_failure_is_final(ledger: Ledger) -> None:
    attempt = await ledger.running()
    result = await ledger.fail(attempt, Verdict.VERDICT_FAIL, error=error("BUSINESS_FAILURE"))
    assert result.state == job_pb2.JOB_STATE_FAILED
    assert (await ledger.types(attempt.job_id))[-1] == "job_failed"
    assert (await ledger.begin(attempt.job_id)).refusal.reason == pb.AttemptRefusal.REASON_TERMINAL


async def test_a_returned_attempt_is_not_spent(ledger: Ledger) -> None:
    attempt = await ledger.running()
    result = await ledger.fail(attempt, Verdict.VERDICT_RETURN, steps=[step("1")])
    assert result.state == job_pb2.JOB_STATE_QUEUED
    grant = (await ledger.begin(attempt.job_id, dispatch=2)).grant
    assert (grant.job.attempt, grant.job.epoch) == (1, 2)
    assert [each.step for each in grant.journal] == ["1"]
    returned = (await ledger.history(attempt.job_id))[2].attempt_returned
    assert (returned.epoch, returned.routing.dispatch) == (1, 2)


@pytest.mark.parametrize("verdict", [Verdict.VERDICT_CANCEL, Verdict.VERDICT_RETRY, Verdict.VERDICT_RETURN])
async def test_a_cancelled_attempt_that_ends_is_cancelled(ledger: Ledger, verdict: int) -> None:
    attempt = await ledger.running()
    await ledger.cancel(attempt.job_id, reason="storm")
    result = await ledger.fail(attempt, verdict)
    assert result.state == job_pb2.JOB_STATE_CANCELLED
    cancelled = (await ledger.history(attempt.job_id))[-1].job_cancelled
    assert (cancelled.reason, cancelled.epoch) == ("storm", 1)


async def test_two_ends_of_one_attempt_in_a_row_leave_the_first(ledger: Ledger) -> None:
    attempt = await ledger.running()
    committed, failed = (await ledger.commit(attempt)), (await ledger.fail(attempt))
    assert (reason(committed.status), reason(failed.status)) == ("", "STALE_EPOCH")
