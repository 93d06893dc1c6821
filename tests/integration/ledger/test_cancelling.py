from __future__ import annotations

from tests.integration.ledger.harness import ALLOWANCE_SECONDS, LEASE_SECONDS, Ledger, reason
from workmesh.common.v1 import job_pb2
from workmesh.ids import uuid7


async def test_a_waiting_job_is_cancelled_at_once(ledger: Ledger) -> None:
    queued, scheduled = await ledger.job(), await ledger.job(run_time_micros=4_000_000_000_000_000)
    for job_id in (queued, scheduled):
        result = await ledger.cancel(job_id, client_id="acme", reason="storm")
        assert result.state == job_pb2.JOB_STATE_CANCELLED
        event = (await ledger.history(job_id))[-1]
        assert (event.job_cancelled.reason, event.job_cancelled.epoch) == ("storm", 0)
        assert event.actor.id == "olga"


async def test_a_running_job_gets_one_request(ledger: Ledger) -> None:
    attempt = await ledger.running()
    for _ in range(2):
        assert (await ledger.cancel(attempt.job_id)).state == job_pb2.JOB_STATE_RUNNING
    assert (await ledger.types(attempt.job_id)).count("cancel_requested") == 1
    assert (await ledger.row(attempt.job_id))["cancel_requested"]


async def test_a_job_whose_holder_is_gone_is_cancelled_at_once(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.age(attempt.job_id, LEASE_SECONDS + ALLOWANCE_SECONDS + 0.1)
    assert (await ledger.cancel(attempt.job_id)).state == job_pb2.JOB_STATE_CANCELLED
    assert (await ledger.types(attempt.job_id))[-2:] == ["attempt_lost", "job_cancelled"]
    assert reason((await ledger.commit(attempt)).status) == "STALE_EPOCH"


async def test_another_clients_job_is_not_found(ledger: Ledger) -> None:
    job_id = await ledger.job()
    for cancelled, client in ((job_id, "globex"), (uuid7(), "acme"), (uuid7(), "")):
        assert reason((await ledger.cancel(cancelled, client_id=client)).status) == "JOB_NOT_FOUND"
    assert (await ledger.row(job_id))["state"] == job_pb2.JOB_STATE_QUEUED


async def test_cancelling_again_is_ok_and_other_ends_are_refused(ledger: Ledger) -> None:
    cancelled = await ledger.job()
    for _ in range(2):
        assert (await ledger.cancel(cancelled)).state == job_pb2.JOB_STATE_CANCELLED
    assert (await ledger.types(cancelled)).count("job_cancelled") == 1
    attempt = await ledger.running()
    await ledger.commit(attempt)
    assert reason((await ledger.cancel(attempt.job_id)).status) == "JOB_TERMINAL"
