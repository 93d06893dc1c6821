from __future__ import annotations

from typing import Any, cast

from tests.integration.ledger.harness import ALLOWANCE_SECONDS, LEASE_SECONDS, Ledger, reason
from workmesh.chain import digest
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb

Standing = pb.ClaimEffectResult
OVER = LEASE_SECONDS + ALLOWANCE_SECONDS + 0.1


async def claim(ledger: Ledger, attempt: pb.AttemptRef, **fields: Any) -> pb.ClaimEffectResult:
    effect = pb.ClaimEffect(
        attempt=attempt,
        **{
            "step": "1",
            "tool": "erp.post_order",
            "arguments_digest": digest(b"{}"),
            "call_deadline_micros": 77,
            **fields,
        },
    )
    response = await ledger.call("ClaimEffects", effects=[effect], instance="toolhub-1")
    return cast(pb.ClaimEffectResult, response.results[0])


async def settle(ledger: Ledger, job_id: str, **fields: Any) -> str:
    effect = pb.SettleEffect(
        job_id=job_id,
        **{"series": 1, "step": "1", "done": True, "result": b'{"order":7}', "source": "answer", **fields},
    )
    response = await ledger.call("SettleEffects", effects=[effect], instance="toolhub-1")
    return reason(response.results[0].status)


async def test_an_effect_is_claimed_once_and_its_result_kept(ledger: Ledger) -> None:
    attempt = await ledger.running()
    assert (await claim(ledger, attempt)).standing == Standing.STANDING_CLAIMED
    again = await claim(ledger, attempt)
    assert (again.standing, again.call_deadline_micros) == (Standing.STANDING_UNSETTLED, 77)
    assert await settle(ledger, attempt.job_id) == ""
    assert await settle(ledger, attempt.job_id) == ""
    done = await claim(ledger, attempt)
    assert (done.standing, done.result) == (Standing.STANDING_DONE, b'{"order":7}')
    assert (await ledger.types(attempt.job_id))[2:] == ["effect_claimed", "effect_settled"]
    settled = (await ledger.history(attempt.job_id))[-1]
    assert settled.effect_settled.result_digest == digest(b'{"order":7}')
    assert settled.actor.instance == "toolhub-1"


async def test_the_next_attempt_meets_the_claim_of_the_last(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await claim(ledger, attempt)
    await ledger.age(attempt.job_id, OVER)
    job = (await ledger.begin(attempt.job_id)).grant.job
    successor = pb.AttemptRef(job_id=job.job_id, epoch=job.epoch)
    assert (await claim(ledger, successor)).standing == Standing.STANDING_UNSETTLED
    assert reason((await claim(ledger, attempt)).status) == "STALE_EPOCH"


async def test_an_effect_that_did_not_take_place_may_be_claimed_anew(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await claim(ledger, attempt)
    assert await settle(ledger, attempt.job_id, done=False, result=b"", source="read_back") == ""
    assert await settle(ledger, attempt.job_id) == "WRONG_STATE"
    assert (await claim(ledger, attempt)).standing == Standing.STANDING_CLAIMED
    assert await settle(ledger, attempt.job_id) == ""
    assert await settle(ledger, attempt.job_id, result=b"{}") == "WRONG_STATE"


async def test_a_claim_with_other_arguments_is_a_replay_mismatch(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await claim(ledger, attempt)
    other = await claim(ledger, attempt, arguments_digest=digest(b"[]"))
    assert reason(other.status) == "REPLAY_MISMATCH"
    assert reason((await claim(ledger, attempt, tool="erp.cancel")).status) == "REPLAY_MISMATCH"


async def test_an_expired_lease_cannot_claim(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.age(attempt.job_id, LEASE_SECONDS)
    assert reason((await claim(ledger, attempt)).status) == "LEASE_EXPIRED"
    assert await ledger.sql("select 1 from effects where job_id = $1", attempt.job_id) == []


async def test_an_effect_may_be_settled_after_its_job_ended(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await claim(ledger, attempt)
    await ledger.commit(attempt)
    assert await settle(ledger, attempt.job_id, source="operator") == ""
    assert (await ledger.types(attempt.job_id))[-2:] == ["job_succeeded", "effect_settled"]


async def test_what_was_never_claimed_cannot_be_settled(ledger: Ledger) -> None:
    attempt = await ledger.running()
    assert await settle(ledger, attempt.job_id) == "WRONG_STATE"
    assert await settle(ledger, uuid7()) == "JOB_NOT_FOUND"


async def test_two_claims_of_one_effect_in_a_batch_are_one(ledger: Ledger) -> None:
    attempt = await ledger.running()
    effect = pb.ClaimEffect(
        attempt=attempt, step="1", tool="erp.post_order", arguments_digest=b"x" * 32, call_deadline_micros=7
    )
    response = await ledger.call("ClaimEffects", effects=[effect, effect], instance="toolhub-1")
    standings = [each.standing for each in response.results]
    assert standings == [Standing.STANDING_CLAIMED, Standing.STANDING_UNSETTLED]
