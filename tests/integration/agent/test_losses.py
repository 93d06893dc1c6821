"""What an instance does when leases end, streams break and peers go away."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.agent import execution as executions
from tests.integration.agent.conftest import Start
from tests.integration.agent.peers import Site, answer, refuse
from workmesh import errors
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.scheduler.v1.lease_service_pb2 import Done
from workmesh.sdk import Context

pytestmark = pytest.mark.timeout(40)

DOWN = errors.unavailable("DEPENDENCY_DOWN", "no database", retry_after=0.01)


async def order(ctx: Context) -> dict[str, Any]:
    await ctx.tool("erp.post", {})
    return {"done": True}


async def endless(ctx: Context) -> dict[str, Any]:
    await asyncio.Event().wait()
    return {}


async def test_a_long_attempt_keeps_its_lease_and_shows_each_new_token(site: Site, start: Start) -> None:
    site.ledger.lease_seconds = 0.8

    async def long(ctx: Context) -> dict[str, Any]:
        await ctx.tool("erp.post", {})
        async with site.ledger.renewing:
            await site.ledger.renewing.wait_for(lambda: site.ledger.renewed.get(ctx.job_id, 0) >= 3)
        await ctx.tool("erp.post", {})
        return {"renewed": True}

    site.toolhub.tools["erp.post"] = answer(None)
    await start({"long": long})
    jobs = [site.ledger.add("long") for _ in range(3)]
    for lease in site.scheduler.offer(*jobs):
        assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert all(job.output == {"renewed": True} for job in jobs)
    assert site.ledger.calls["RenewLeases"][0] == 3
    assert len(set(site.toolhub.tokens)) == 2


async def test_a_lease_that_cannot_be_renewed_ends_the_attempt_and_its_call(site: Site, start: Start) -> None:
    site.ledger.lease_seconds = 0.8
    site.ledger.faults["RenewLeases"] = [DOWN] * 1000
    site.toolhub.tools["erp.post"] = lambda call: None
    process = await start({"order": order})
    job = site.ledger.add("order")
    lease = site.scheduler.offer(job)[0]
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    await site.toolhub.until(lambda: len(site.toolhub.cancelled) == 1)
    assert not job.ended.is_set()
    assert "CommitAttempts" not in site.ledger.calls
    assert "FailAttempts" not in site.ledger.calls
    assert not process.instance.executions


@pytest.mark.parametrize("reason", ["STALE_EPOCH", "LEASE_EXPIRED"])
async def test_a_refused_renewal_ends_the_attempt_at_once(site: Site, start: Start, reason: str) -> None:
    site.ledger.lease_seconds = 2.0
    site.ledger.item_faults["RenewLeases"] = [errors.aborted(reason, "over")]
    await start({"endless": endless})
    lease = site.scheduler.offer(site.ledger.add("endless"))[0]
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert site.ledger.calls["RenewLeases"] == [1]


async def test_a_cancellation_learnt_from_a_renewal_ends_the_attempt(site: Site, start: Start) -> None:
    site.ledger.lease_seconds = 0.8
    await start({"endless": endless})
    job = site.ledger.add("endless")
    lease = site.scheduler.offer(job)[0]
    job.record.cancel_requested = True
    await site.scheduler.done_of(lease)
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_CANCEL


async def test_a_superseded_commit_is_given_up_quietly(site: Site, start: Start) -> None:
    async def usurped(ctx: Context) -> dict[str, Any]:
        site.ledger.jobs[ctx.job_id].record.epoch += 1
        return {"by": "the old one"}

    process = await start({"usurped": usurped})
    job = site.ledger.add("usurped")
    done = await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert done.outcome == Done.OUTCOME_UNKNOWN
    assert job.output is None
    assert len(site.ledger.calls["CommitAttempts"]) == 1
    assert process.instance.committed_count == 0


@pytest.mark.parametrize(
    "name", ["CommitAttempts", "FailAttempts", "RecordSteps", "GetStates", "BeginAttempts"]
)
async def test_a_ledger_that_is_down_for_a_moment_is_asked_again(site: Site, start: Start, name: str) -> None:
    async def everything(ctx: Context) -> dict[str, Any]:
        await ctx.state.get("ports", "hamburg")
        await ctx.tool("erp.post", {})
        await ctx.tool("erp.post", {})
        if name == "FailAttempts":
            raise RuntimeError("failed")
        return {"done": True}

    # More often than the channel itself tries again.
    site.ledger.faults[name] = [DOWN] * 6
    site.toolhub.tools["erp.post"] = answer(None)
    await start({"everything": everything})
    job = site.ledger.add("everything")
    done = await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert done.outcome == Done.OUTCOME_REPORTED
    assert job.record.epoch == 1
    assert not site.ledger.faults[name]


async def test_a_commit_is_tried_beyond_the_lease_and_then_given_up(site: Site, start: Start) -> None:
    site.ledger.lease_seconds = 0.5
    site.ledger.faults["CommitAttempts"] = [DOWN] * 10_000
    site.ledger.item_faults["RenewLeases"] = [errors.aborted("LEASE_EXPIRED", "over")] * 100

    async def quick(ctx: Context) -> dict[str, Any]:
        return {}

    await start({"quick": quick})
    start_time = asyncio.get_running_loop().time()
    lease = site.scheduler.offer(site.ledger.add("quick"))[0]
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert asyncio.get_running_loop().time() - start_time > 0.5
    assert len(site.ledger.calls["CommitAttempts"]) > 4


async def test_a_commit_that_is_refused_for_good_dead_letters_the_job(site: Site, start: Start) -> None:
    async def quick(ctx: Context) -> dict[str, Any]:
        ctx.uuid()
        return {}

    conflict = errors.failed_precondition("STEP_CONFLICT", "recorded before")
    site.ledger.item_faults["CommitAttempts"] = [conflict]
    site.ledger.item_faults["FailAttempts"] = [conflict]
    await start({"quick": quick})
    job = site.ledger.add("quick")
    done = await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert done.outcome == Done.OUTCOME_REPORTED
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_DEAD_LETTER
    assert errors.from_status(job.verdict.error).reason == "STEP_CONFLICT"
    # The steps were what the ledger refused, so the report went without them.
    assert not job.verdict.steps


async def test_calls_that_a_broken_stream_leaves_open_are_sent_again(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = lambda call: None
    await start({"order": order})
    job = site.ledger.add("order")
    lease = site.scheduler.offer(job)[0]
    await site.toolhub.until(lambda: len(site.toolhub.calls) == 1)
    site.toolhub.tools["erp.post"] = answer(None)
    site.toolhub.end_stream()
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    first, second = site.toolhub.calls
    assert (first.step, first.epoch, first.arguments) == (second.step, second.epoch, second.arguments)
    assert len(site.toolhub.tokens) == 2
    assert job.record.epoch == 1


async def test_toolhub_away_for_too_long_fails_the_call_for_another_attempt(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = lambda call: None
    await start({"order": order}, toolhub_patience_seconds=0.5)
    job = site.ledger.add("order")
    lease = site.scheduler.offer(job)[0]
    await site.toolhub.until(lambda: len(site.toolhub.calls) == 1)
    site.toolhub.away = errors.unavailable("DRAINING", "going away")
    site.toolhub.end_stream()
    await site.scheduler.done_of(lease)
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_RETRY
    assert errors.from_status(job.verdict.error).reason == "DEPENDENCY_DOWN"


async def test_a_token_that_toolhub_does_not_know_is_shown_once_more(site: Site, start: Start) -> None:
    answers = [refuse(errors.unauthenticated("the token has not been shown here")), answer(None)]
    site.toolhub.tools["erp.post"] = lambda call: answers.pop(0)(call)
    await start({"order": order})
    job = site.ledger.add("order")
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.output == {"done": True}
    assert len(site.toolhub.tokens) == 2
    refused = refuse(errors.unauthenticated("expired"))
    site.toolhub.tools["erp.post"] = refused
    job = site.ledger.add("order")
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    assert job.verdict is not None
    assert job.verdict.verdict == FailAttempt.VERDICT_RETRY
    assert errors.from_status(job.verdict.error).reason == "TOKEN_INVALID"
    assert len(site.toolhub.calls) == 4


async def test_a_call_by_a_superseded_attempt_ends_it_unreported(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = refuse(errors.aborted("STALE_EPOCH", "over"))
    await start({"order": order})
    lease = site.scheduler.offer(site.ledger.add("order"))[0]
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert "FailAttempts" not in site.ledger.calls


async def test_a_new_scheduler_stream_learns_what_runs_and_what_ended_meanwhile(
    site: Site, start: Start
) -> None:
    ends = asyncio.Event()

    async def waiting(ctx: Context) -> dict[str, Any]:
        if ctx.input.get("waits"):
            await ends.wait()
        return {}

    await start({"waiting": waiting})
    job = site.ledger.add("waiting", {"waits": True})
    lease = site.scheduler.offer(job)[0]
    await site.scheduler.until(
        lambda: any(each.heartbeat.running for each in site.scheduler.requests if each.HasField("heartbeat"))
    )
    before = len(site.scheduler.requests)
    site.scheduler.end_stream()
    await site.scheduler.until(
        lambda: any(each.HasField("hello") for each in site.scheduler.requests[before:])
    )
    again = next(each for each in site.scheduler.requests[before:] if each.HasField("hello"))
    assert [each.lease_id for each in again.hello.running] == [lease]
    assert again.ready == 3
    ends.set()
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED


async def test_everything_goes_on_after_all_peers_went_away_and_came_back(site: Site, start: Start) -> None:
    site.toolhub.tools["erp.post"] = lambda call: None
    await start({"order": order}, slots=8)
    jobs = [site.ledger.add("order") for _ in range(8)]
    leases = site.scheduler.offer(*jobs)
    await site.toolhub.until(lambda: len(site.toolhub.calls) == 8)
    await site.stop()
    site.toolhub.tools["erp.post"] = answer(None)
    await site.start()
    for lease in leases:
        assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert all(job.output == {"done": True} for job in jobs)
    assert site.scheduler.streams == 2


async def test_a_handler_that_does_not_end_loses_its_lease_and_its_slot(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "STOP_GRACE", 0.2)
    monkeypatch.setattr(executions, "LOST_GRACE", 0.2)
    site.ledger.lease_seconds = 0.8
    free = asyncio.Event()

    async def stubborn(ctx: Context) -> dict[str, Any]:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return {}

    process = await start({"stubborn": stubborn}, slots=2)
    job = site.ledger.add("stubborn")
    lease = site.scheduler.offer(job)[0]
    await site.scheduler.until(lambda: site.scheduler.requests[-1].heartbeat.running != [])
    site.scheduler.cancel(job, lease)
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert process.instance.free_slots() == 1
    assert not process.instance.heartbeat().running
    ready = site.scheduler.ready
    free.set()
    await site.scheduler.until(lambda: site.scheduler.ready == ready + 1)
    assert process.instance.free_slots() == 2
    assert "CommitAttempts" not in site.ledger.calls


async def test_calls_of_tasks_that_a_handler_left_behind_end_before_its_commit(
    site: Site, start: Start
) -> None:
    left: list[asyncio.Task[Any]] = []

    async def careless(ctx: Context) -> dict[str, Any]:
        left.append(asyncio.create_task(ctx.tool("erp.post", {})))
        await site.toolhub.until(lambda: len(site.toolhub.calls) == 1)
        return {}

    site.toolhub.tools["erp.post"] = lambda call: None
    site.ledger.gated.add("CommitAttempts")
    site.ledger.gate.clear()
    await start({"careless": careless})
    lease = site.scheduler.offer(site.ledger.add("careless"))[0]
    await site.ledger.arrived.wait()
    assert left[0].cancelled()
    await site.toolhub.until(lambda: len(site.toolhub.cancelled) == 1)
    site.ledger.gate.set()
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
