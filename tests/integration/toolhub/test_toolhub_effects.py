"""Unsafe effects: claimed, called at most once on a claim, settled, reconciled."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

import grpc
import orjson
import pytest

from tests.integration.toolhub.external_system import (
    ExternalSystem,
    Reaction,
    answer,
    broken_off,
    held,
    raw,
    reset,
    status,
)
from tests.integration.toolhub.hub import Conversation, Hub, Job, running_hub
from tests.integration.toolhub.scripted_ledger import Effect, ScriptedLedger
from workmesh import errors
from workmesh.clock import micros
from workmesh.toolhub.v1 import tool_service_pb2 as pb

YAML = """
integrations:
  - name: erp
    kind: http
    address: ${URL}
    timeout: {try: 300ms, total: 1s}
    retry: {max_tries: 3, initial_delay: 5ms, max_delay: 20ms}
    settle_delay: 50ms
    operations:
      get_order:
        {method: GET, path: "/orders/{reference}", effect: read,
         input: {properties: {reference: {type: string}}, additionalProperties: false}}
      find_orders: {method: GET, path: /orders, effect: read}
      bare: {method: POST, path: /orders, effect: unsafe}
      sure:
        method: POST
        path: /orders
        effect: unsafe
        read_back: {operation: get_order, authoritative: true}
      unsure:
        method: POST
        path: /orders
        effect: unsafe
        read_back: {operation: get_order}
      listed:
        method: POST
        path: /orders
        effect: unsafe
        read_back:
          operation: find_orders
          authoritative: true
          arguments: {number: order.number, key: "@idempotency_key"}
          result: items.0
  - name: nowhere
    kind: http
    address: http://127.0.0.1:1
    retry: {max_tries: 3, initial_delay: 5ms, max_delay: 20ms}
    operations:
      post: {method: POST, path: /, effect: unsafe}
  - name: bench
    kind: noop
    operations:
      fire: {effect: unsafe}
"""
ORDER = {"reference": "R1", "order": {"number": "N7"}}


@pytest.fixture
async def hub(system: ExternalSystem, ledger: ScriptedLedger) -> AsyncIterator[Hub]:
    async with running_hub(YAML, {"URL": system.url}, ledger_address=ledger.address) as running:
        yield running


def methods(system: ExternalSystem) -> list[str]:
    return [each.method for each in system.seen]


def claimed_elsewhere(ledger: ScriptedLedger, job: Job, seconds: float) -> Effect:
    """Let another process have claimed step 1, its call to be over in so many seconds."""
    digest = hashlib.sha256(orjson.dumps(ORDER)).digest()
    effect = Effect(digest, micros(time.time() + seconds))
    ledger.effects[job.job_id, "1"] = effect
    return effect


async def test_an_effect_is_claimed_before_the_call_and_settled_after(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    async def record(request: object) -> object:
        ledger.log.append("called")
        return await answer({"order": 7}, 201)(request)  # type: ignore[arg-type]

    system.otherwise = record  # type: ignore[assignment]
    job = hub.job(series=2)
    assert await job.call("erp.bare", ORDER) == {"order": 7}
    assert ledger.log == ["claimed 1", "called", "settled 1 done answer"]
    assert system.seen[0].headers["Idempotency-Key"] == f"{job.job_id}:2:1"
    effect = ledger.effects[job.job_id, "1"]
    assert effect.digest == hashlib.sha256(orjson.dumps(ORDER)).digest()
    assert effect.deadline_micros <= micros(time.time() + 1.0)


async def test_a_step_that_is_done_gives_its_first_result_without_a_call(
    hub: Hub, system: ExternalSystem
) -> None:
    system.plan = [answer({"order": 7})]
    job = hub.job()
    first = await job.answer("erp.bare", ORDER)
    second = await job.answer("erp.bare", ORDER)
    assert first.result == second.result == b'{"order":7}'
    assert (first.request_count, second.request_count) == (1, 0)
    assert len(system.seen) == 1


async def test_other_arguments_are_a_replay_mismatch_and_nothing_fires(
    hub: Hub, system: ExternalSystem
) -> None:
    job = hub.job()
    await job.call("erp.bare", ORDER)
    error = await job.failure("erp.bare", {"reference": "R2"})
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REPLAY_MISMATCH")
    assert len(system.seen) == 1


async def test_a_superseded_attempt_fires_nothing(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    job = hub.job()
    ledger.superseded.add(job.job_id)
    error = await job.failure("erp.bare", ORDER)
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "STALE_EPOCH")
    assert system.seen == []


async def test_bad_arguments_claim_nothing(hub: Hub, ledger: ScriptedLedger) -> None:
    error = await hub.job().failure("erp.bare", b'{"a":')
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert ledger.log == []


@pytest.mark.parametrize("code", [400, 404, 409, 422])
async def test_a_refusal_settles_that_nothing_was_done_and_frees_the_step(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger, code: int
) -> None:
    system.plan = [status(code)]
    job = hub.job()
    error = await job.failure("erp.bare", ORDER)
    assert error.reason == "INTEGRATION_REFUSED"
    assert ledger.log == ["claimed 1", "settled 1 not done answer"]
    assert await job.call("erp.bare", ORDER) == {"ok": True}


async def test_a_throttled_effect_is_settled_not_done_and_not_repeated_here(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    system.plan = [status(429, Retry_After="1")]
    error = await hub.job().failure("erp.bare", ORDER)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert error.retry_after == 1.0
    assert ledger.log == ["claimed 1", "settled 1 not done answer"]
    assert len(system.seen) == 1


async def test_what_was_never_sent_is_tried_again_and_settled_not_done(
    hub: Hub, ledger: ScriptedLedger
) -> None:
    result = await hub.job().failure("nowhere.post", ORDER)
    assert (result.code, result.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert ledger.log == ["claimed 1", "settled 1 not done answer"]


@pytest.mark.parametrize(
    "fault",
    [
        status(500),
        status(503, Retry_After="0"),
        status(408),
        reset(),
        broken_off(),
        raw(b"", 303, Location="/"),
        raw(b"<html>"),
        held(asyncio.Event()),
    ],
    ids=["500", "503", "408", "reset", "broken off", "303", "garbage", "hang"],
)
async def test_an_unknown_outcome_is_never_fired_again_without_a_read_back(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger, fault: Reaction
) -> None:
    system.plan = [fault]
    job = hub.job()
    for _ in range(2):
        error = await job.failure("erp.bare", ORDER)
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "EFFECT_UNSETTLED")
        assert error.retry_after is None
    assert len(system.seen) == 1
    assert ledger.effects[job.job_id, "1"].done is None


async def test_a_read_back_that_finds_the_effect_settles_it_with_what_it_shows(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    system.plan = [reset(), answer({"order": 7})]
    job = hub.job()
    assert await job.call("erp.sure", ORDER) == {"order": 7}
    assert methods(system) == ["POST", "GET"]
    assert system.seen[1].target == "/orders/R1"
    assert "Idempotency-Key" not in system.seen[1].headers
    assert ledger.log == ["claimed 1", "settled 1 done read_back"]
    assert await job.call("erp.sure", ORDER) == {"order": 7}
    assert len(system.seen) == 2


async def test_an_authoritative_read_back_that_finds_nothing_permits_a_new_claim(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    system.plan = [status(500), status(404), answer({"order": 8})]
    assert await hub.job().call("erp.sure", ORDER) == {"order": 8}
    assert methods(system) == ["POST", "GET", "POST"]
    assert ledger.log == [
        "claimed 1",
        "settled 1 not done read_back",
        "claimed 1",
        "settled 1 done answer",
    ]


async def test_a_read_back_that_is_not_authoritative_proves_nothing_by_not_finding(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    system.plan = [status(500), status(404)]
    job = hub.job()
    error = await job.failure("erp.unsure", ORDER)
    assert (error.reason, error.retry_after) == ("EFFECT_UNSETTLED", None)
    assert ledger.effects[job.job_id, "1"].done is None


async def test_a_read_back_that_is_not_authoritative_may_still_find(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [status(500), answer({"order": 7})]
    assert await hub.job().call("erp.unsure", ORDER) == {"order": 7}


@pytest.mark.parametrize("nothing", [{"items": []}, {}, {"items": [None]}])
async def test_a_read_back_looks_by_mapped_arguments_at_a_path_of_the_answer(
    hub: Hub, system: ExternalSystem, nothing: object
) -> None:
    system.plan = [status(500), answer(nothing), status(500), answer({"items": [{"order": 9}]})]
    job = hub.job()
    assert await job.call("erp.listed", ORDER) == {"order": 9}
    assert methods(system) == ["POST", "GET", "POST", "GET"]
    assert system.seen[1].target == f"/orders?number=N7&key={job.job_id}%3A1%3A1"


async def test_an_effect_that_fails_each_time_comes_to_an_end(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [status(500), status(404)] * 10
    error = await hub.job().failure("erp.sure", ORDER)
    assert error.reason == "EFFECT_UNSETTLED"
    assert error.retry_after is not None
    assert methods(system) == ["POST", "GET"] * 3


async def test_a_read_back_that_fails_leaves_the_question_for_later(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    system.plan = [status(500), status(503), status(503), status(503)]
    job = hub.job()
    error = await job.failure("erp.sure", ORDER)
    assert error.reason == "EFFECT_UNSETTLED"
    assert error.retry_after is not None
    assert methods(system) == ["POST", "GET", "GET", "GET"]
    assert ledger.effects[job.job_id, "1"].done is None


async def test_a_read_back_that_the_arguments_do_not_suit_is_for_a_person(
    hub: Hub, system: ExternalSystem
) -> None:
    system.plan = [status(500)]
    error = await hub.job().failure("erp.sure", {"other": 1})
    assert (error.reason, error.retry_after) == ("EFFECT_UNSETTLED", None)
    assert methods(system) == ["POST"]


async def test_a_claim_of_another_process_is_waited_for_and_its_result_given(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    job = hub.job()
    effect = claimed_elsewhere(ledger, job, seconds=10)
    asked = asyncio.create_task(job.call("erp.sure", ORDER))
    await ledger.claim_asked.wait()
    effect.done, effect.result = True, b'{"order":1}'
    assert await asked == {"order": 1}
    assert system.seen == []


async def test_a_claim_of_another_process_is_reconciled_only_after_its_deadline_and_the_settle_delay(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    job = hub.job()
    effect = claimed_elsewhere(ledger, job, seconds=0.3)
    read_at: list[float] = []

    async def look(request: object) -> object:
        read_at.append(time.time())
        return await answer({"order": 1})(request)  # type: ignore[arg-type]

    system.otherwise = look  # type: ignore[assignment]
    assert await job.call("erp.sure", ORDER) == {"order": 1}
    assert methods(system) == ["GET"]
    assert read_at[0] >= effect.deadline_micros / 1e6 + 0.05


async def test_a_caller_who_cannot_wait_is_told_when_to_come_back(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    job = hub.job()
    claimed_elsewhere(ledger, job, seconds=30)
    error = await job.failure("erp.sure", ORDER, seconds=2)
    assert error.reason == "EFFECT_UNSETTLED"
    assert error.retry_after is not None
    assert 25 < error.retry_after <= 30.05
    assert system.seen == []


async def test_claims_of_concurrent_calls_travel_in_batches(hub: Hub, ledger: ScriptedLedger) -> None:
    jobs = [hub.job() for _ in range(40)]
    stream = Conversation(hub)
    calls = [job.ask("bench.fire", step="s") for job in jobs]
    results = await asyncio.gather(*await stream.send(calls, [job.token for job in jobs]))
    await stream.finish()
    assert all(result.result == b'{"ok":true}' for result in results)
    assert sum(ledger.claim_batches) == 40
    assert len(ledger.claim_batches) <= 4


async def test_without_the_ledger_nothing_is_sent(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    down = errors.unavailable("DEPENDENCY_DOWN", "starting", retry_after=5.0)
    ledger.claim_failures = [down]
    error = await hub.job().failure("erp.bare", ORDER)
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")
    assert system.seen == []


async def test_a_settlement_is_insisted_on_while_the_ledger_is_away(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    away = errors.unavailable("DEPENDENCY_DOWN", "restarting", retry_after=5.0)
    ledger.settle_failures = [away.copy(), away.copy()]
    job = hub.job()
    assert await job.call("erp.bare", ORDER) == {"ok": True}
    assert ledger.effects[job.job_id, "1"].done is True
    assert len(system.seen) == 1


async def test_a_caller_gone_before_the_claim_is_answered_sends_nothing_and_frees_the_step(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    ledger.claims_held = asyncio.Event()
    job, stream = hub.job(), Conversation(hub)
    await stream.send([job.ask("erp.bare", ORDER, call_id=1)], [job.token])
    await ledger.claim_asked.wait()
    await stream.cancel(1)
    (mark,) = await stream.send([job.ask("erp.nothing")])
    await mark
    ledger.claims_held.set()
    await hub.calls.drain()
    assert ledger.log == ["claimed 1", "settled 1 not done answer"]
    assert system.seen == []
    assert await stream.finish() is grpc.StatusCode.OK


async def test_a_caller_gone_after_the_request_leaves_a_settled_effect_for_its_successor(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    release = asyncio.Event()
    system.plan = [held(release, answer({"order": 7}))]
    job, stream = hub.job(), Conversation(hub)
    await stream.send([job.ask("erp.bare", ORDER)], [job.token])
    await system.wait_for(1)
    stream.break_off()
    await stream.ended
    successor = asyncio.create_task(job.call("erp.bare", ORDER))
    release.set()
    assert await successor == {"order": 7}
    assert len(system.seen) == 1
    assert ledger.effects[job.job_id, "1"].source == "answer"


async def test_two_callers_of_one_step_fire_once(
    hub: Hub, system: ExternalSystem, ledger: ScriptedLedger
) -> None:
    release = asyncio.Event()
    system.plan = [held(release, answer({"order": 7}))]
    job = hub.job()
    asked = [asyncio.create_task(job.answer("erp.bare", ORDER)) for _ in range(5)]
    await system.wait_for(1)
    release.set()
    results = await asyncio.gather(*asked)
    assert {result.result for result in results} == {b'{"order":7}'}
    assert sorted(result.request_count for result in results) == [0, 0, 0, 0, 1]
    assert len(system.seen) == 1


async def test_a_served_operation_of_unsafe_effect_is_claimed_too(hub: Hub, ledger: ScriptedLedger) -> None:
    assert await hub.job().call("bench.fire") == {"ok": True}
    assert ledger.log == ["claimed 1", "settled 1 done answer"]


async def test_an_effect_is_listed_as_unsafe(hub: Hub) -> None:
    listed = await hub.stub.ListTools(pb.ListToolsRequest(integration="bench"), timeout=5)
    assert listed.tools[0].effect == pb.EFFECT_CLASS_UNSAFE
