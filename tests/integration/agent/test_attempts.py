"""Offers become attempts, attempts end in the ledger, the scheduler is told."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from tests.integration.agent.conftest import Start
from tests.integration.agent.peers import Site, answer, refuse
from workmesh import errors
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal, FailAttempt
from workmesh.scheduler.v1.lease_service_pb2 import Done
from workmesh.sdk import BusinessError, Context
from workmesh.sdk.definition import Definition

pytestmark = pytest.mark.timeout(30)


async def order(ctx: Context) -> dict[str, Any]:
    placed = await ctx.tool("erp.post", {"n": ctx.input["n"]})
    return {"order": placed, "n": ctx.input["n"]}


async def test_an_instance_introduces_itself(site: Site, start: Start) -> None:
    await start({"order": order}, pools=("ocean", "air"), slots=7)
    first = site.scheduler.requests[0]
    assert first.hello.instance == "agent-1"
    assert list(first.hello.pools) == ["ocean", "air"]
    assert [(each.agent, each.version) for each in first.hello.handlers] == [("order", 1)]
    assert (first.hello.slots, first.ready, first.hello.address) == (7, 7, "127.0.0.1:1")
    await site.scheduler.until(lambda: any(each.HasField("heartbeat") for each in site.scheduler.requests))


async def test_offers_that_come_together_are_begun_and_committed_in_one_batch_each(
    site: Site, start: Start
) -> None:
    site.toolhub.tools["erp.post"] = answer({"id": 7})
    await start({"order": order}, slots=8)
    jobs = [site.ledger.add("order", {"n": number}) for number in range(8)]
    leases = site.scheduler.offer(*jobs)
    for lease in leases:
        assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert [job.output for job in jobs] == [{"order": {"id": 7}, "n": number} for number in range(8)]
    assert site.ledger.calls["BeginAttempts"] == [8]
    assert len(site.ledger.calls["CommitAttempts"]) <= 2
    assert "RecordSteps" not in site.ledger.calls
    assert len(site.toolhub.requests) <= 2
    assert site.scheduler.ready == 16


async def test_a_tool_call_carries_token_epoch_step_and_deadline(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = answer(None)
    await start({"order": order})
    job = site.ledger.add("order", {"n": 1})
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    (call,) = site.toolhub.calls
    assert (call.job_id, call.epoch, call.step, call.tool) == (job.record.job_id, 1, "1", "erp.post")
    assert orjson.loads(call.arguments) == {"n": 1}
    assert call.token_id in site.toolhub.tokens
    assert call.deadline_micros > 0
    assert list(job.journal) == ["1"]


async def test_a_token_is_shown_once_a_stream(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = answer(None)

    async def thrice(ctx: Context) -> dict[str, Any]:
        for number in range(3):
            await ctx.tool("erp.post", {"n": number})
        return {}

    await start({"thrice": thrice})
    first, second = site.ledger.add("thrice"), site.ledger.add("thrice")
    for lease in site.scheduler.offer(first, second):
        await site.scheduler.done_of(lease)
    assert len(site.toolhub.calls) == 6
    assert len(site.toolhub.tokens) == 1
    assert list(first.journal) == ["1", "2", "3"]
    assert sum(site.ledger.calls["RecordSteps"]) == 4


async def test_a_refused_offer_goes_back_with_the_refusal(site: Site, start: Start) -> None:
    await start({"order": order})
    site.ledger.refusal = AttemptRefusal(
        reason=AttemptRefusal.REASON_LEASE_HELD, retry_time_micros=1_700_000_000_000_000
    )
    done = await site.scheduler.done_of(site.scheduler.offer(site.ledger.add("order"))[0])
    assert done.outcome == Done.OUTCOME_REFUSED
    assert done.refusal == site.ledger.refusal
    await site.scheduler.until(lambda: site.scheduler.ready == 5)


async def test_offers_beyond_the_slots_are_not_begun(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = lambda call: None
    await start({"order": order}, slots=1)
    running, extra = site.ledger.add("order", {"n": 1}), site.ledger.add("order", {"n": 2})
    _, second = site.scheduler.offer(running, extra)
    assert (await site.scheduler.done_of(second)).outcome == Done.OUTCOME_UNKNOWN
    await site.toolhub.until(lambda: len(site.toolhub.calls) == 1)
    assert site.ledger.calls["BeginAttempts"] == [1]
    assert site.scheduler.ready == 1


async def test_offers_of_unknown_handlers_are_not_begun(site: Site, start: Start) -> None:
    await start({"order": order})
    lease = site.scheduler.offer(site.ledger.add("stranger"))[0]
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert "BeginAttempts" not in site.ledger.calls
    assert site.scheduler.ready == 5


@pytest.mark.parametrize(
    ("raised", "verdict", "reason"),
    [
        (BusinessError("NO_ROOM", "full"), FailAttempt.VERDICT_FAIL, "BUSINESS_FAILURE"),
        (ValueError("odd"), FailAttempt.VERDICT_RETRY, "HANDLER_FAILED"),
    ],
    ids=["business", "exception"],
)
async def test_a_failure_is_reported_with_its_verdict(
    site: Site, start: Start, raised: Exception, verdict: int, reason: str
) -> None:
    async def failing(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post", {})
        raise raised

    site.toolhub.tools["erp.post"] = answer(None)
    await start({"failing": failing})
    job = site.ledger.add("failing")
    done = await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert done.outcome == Done.OUTCOME_REPORTED
    assert job.verdict is not None
    assert job.verdict.verdict == verdict
    assert errors.from_status(job.verdict.error).reason == reason
    assert list(job.journal) == ["1"]


async def test_a_retry_obeys_what_the_failing_system_asked_for(site: Site, start: Start) -> None:
    down = errors.unavailable("INTEGRATION_FAILED", "down", retry_after=2.5)
    site.toolhub.tools["erp.post"] = refuse(down)
    await start({"order": order})
    job = site.ledger.add("order", {"n": 1})
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.verdict is not None
    assert job.verdict.retry_after_micros == 2_500_000
    assert not job.journal
    site.toolhub.tools["erp.post"] = answer("done")
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.output == {"order": "done", "n": 1}
    assert [call.epoch for call in site.toolhub.calls] == [1, 2]
    assert [call.step for call in site.toolhub.calls] == ["1", "1"]


async def test_documents_in_conflict_are_settled_by_running_the_update_again(
    site: Site, start: Start
) -> None:
    async def count(ctx: Context) -> dict[str, Any]:
        return {"count": await ctx.state.update("counts", "orders", lambda old: (old or 0) + 1)}

    await start({"count": count}, slots=8)
    jobs = [site.ledger.add("count") for _ in range(8)]
    for lease in site.scheduler.offer(*jobs):
        assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert site.ledger.documents["counts", "orders"] == (8, b"8")


async def test_a_job_whose_deadline_passes_while_it_runs_has_failed(site: Site, start: Start) -> None:
    async def endless(ctx: Context) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    await start({"endless": endless})
    job = site.ledger.add("endless", deadline_micros=time.time_ns() // 1000 + 300_000)
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_FAIL
    assert errors.from_status(job.verdict.error).reason == "DEADLINE_EXCEEDED"


async def test_an_attempt_that_runs_too_long_is_repeated(site: Site, start: Start) -> None:
    async def endless(ctx: Context) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    await start({"endless": Definition(name="endless", function=endless, attempt_timeout=1.0)})
    job = site.ledger.add("endless")
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_RETRY
    assert errors.from_status(job.verdict.error).reason == "DEADLINE_EXCEEDED"


async def test_a_cancel_notice_ends_the_handler_and_its_tool_call(site: Site, start: Start) -> None:
    seen: list[bool] = []

    async def waiting(ctx: Context) -> dict[str, Any]:
        try:
            await ctx.tool("erp.post", {})
        finally:
            seen.append(ctx.cancelled)
        return {}

    site.toolhub.tools["erp.post"] = lambda call: None
    await start({"waiting": waiting})
    job = site.ledger.add("waiting")
    lease = site.scheduler.offer(job)[0]
    await site.toolhub.until(lambda: len(site.toolhub.calls) == 1)
    site.scheduler.cancel(job, lease)
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_CANCEL
    assert seen == [True]
    await site.toolhub.until(lambda: site.toolhub.cancelled == [site.toolhub.calls[0].call_id])


async def test_a_cancel_notice_that_comes_before_the_grant_is_not_forgotten(site: Site, start: Start) -> None:
    site.ledger.gated.add("BeginAttempts")
    site.ledger.gate.clear()
    await start({"order": order})
    job = site.ledger.add("order", {"n": 1})
    lease = site.scheduler.offer(job)[0]
    await site.ledger.arrived.wait()
    site.scheduler.cancel(job, lease)
    # The notice travels on the stream, so once a later heartbeat names the lease it has been read.
    count = len(site.scheduler.requests)
    await site.scheduler.until(lambda: len(site.scheduler.requests) > count + 1)
    site.ledger.gate.set()
    await site.scheduler.done_of(lease)
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_CANCEL
    assert not site.toolhub.calls


async def test_a_job_granted_with_a_request_to_cancel_does_not_run(site: Site, start: Start) -> None:
    await start({"order": order})
    job = site.ledger.add("order", {"n": 1}, cancel_requested=True)
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_CANCEL
    assert not site.toolhub.calls
