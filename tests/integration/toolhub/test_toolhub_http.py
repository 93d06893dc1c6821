"""Calls to HTTP integrations, seen from both ends."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator

import grpc
import orjson
import pytest

from tests.integration.toolhub.external_system import (
    ExternalSystem,
    answer,
    broken_off,
    held,
    huge,
    raw,
    reset,
    status,
)
from tests.integration.toolhub.hub import Hub, running_hub
from workmesh.errors import MeshError

YAML = """
integrations:
  - name: erp
    kind: http
    address: ${URL}/base
    connections: 4
    bulkhead: {running: 4, waiting: 4}
    timeout: {try: 300ms, total: 2s}
    retry: {max_tries: 3, initial_delay: 5ms, max_delay: 20ms}
    operations:
      get_order: {method: GET, path: "/orders/{reference}", effect: read}
      put_order: {method: PUT, path: "/orders/{reference}", effect: idempotent}
      drop_order: {method: DELETE, path: "/orders/{reference}", effect: idempotent}
      post_order:
        method: POST
        path: /orders
        effect: idempotent
        input: {type: object, required: [reference], properties: {reference: {type: string}}}
        output: {type: object}
  - name: nowhere
    kind: http
    address: http://127.0.0.1:1
    retry: {max_tries: 3, initial_delay: 5ms, max_delay: 20ms}
    operations:
      ask: {method: GET, path: /, effect: read}
"""


@pytest.fixture
async def hub(system: ExternalSystem) -> AsyncIterator[Hub]:
    async with running_hub(YAML, {"URL": system.url}) as running:
        yield running


async def test_a_get_carries_its_arguments_in_path_and_query(hub: Hub, system: ExternalSystem) -> None:
    await hub.job().call("erp.get_order", {"reference": "a/b ?#ü", "full": True, "lines": [1, 2], "no": None})
    request = system.seen[0]
    assert request.method == "GET"
    assert request.target == "/base/orders/a%2Fb%20%3F%23%C3%BC?full=true&lines=1&lines=2"
    assert request.body == b""


async def test_a_put_carries_the_rest_as_json(hub: Hub, system: ExternalSystem) -> None:
    await hub.job().call("erp.put_order", {"reference": "R1", "lines": [{"sku": "x"}]})
    request = system.seen[0]
    assert (request.method, request.target) == ("PUT", "/base/orders/R1")
    assert orjson.loads(request.body) == {"lines": [{"sku": "x"}]}
    assert request.headers["Content-Type"] == "application/json"


async def test_a_delete_without_other_arguments_has_no_body(hub: Hub, system: ExternalSystem) -> None:
    await hub.job().call("erp.drop_order", {"reference": "R1"})
    assert system.seen[0].body == b""
    assert "Content-Type" not in system.seen[0].headers


async def test_the_idempotency_key_is_job_series_and_step_and_survives_retries(
    hub: Hub, system: ExternalSystem
) -> None:
    system.plan = [status(500), reset()]
    job = hub.job(series=3)
    result = await job.answer("erp.post_order", {"reference": "R1"}, step="2.1")
    assert [each.headers["Idempotency-Key"] for each in system.seen] == [f"{job.job_id}:3:2.1"] * 3
    assert result.request_count == 3


async def test_the_key_of_an_odd_step_is_still_a_header(hub: Hub, system: ExternalSystem) -> None:
    job = hub.job()
    await job.call("erp.get_order", {"reference": "R"}, step="büchen\r\nX: 1")
    await job.call("erp.get_order", {"reference": "R"}, step="b%C3%BCchen")
    first, second = (each.headers["Idempotency-Key"] for each in system.seen)
    assert first == f"{job.job_id}:1:b%C3%BCchen%0D%0AX:%201"
    assert second == f"{job.job_id}:1:b%25C3%25BCchen"


@pytest.mark.parametrize("body", [b"", b" \n"])
async def test_an_empty_success_is_null(hub: Hub, system: ExternalSystem, body: bytes) -> None:
    system.plan = [raw(body, 202)]
    assert await hub.job().call("erp.get_order", {"reference": "R1"}) is None


async def test_a_204_is_null(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [raw(b"", 204)]
    assert await hub.job().call("erp.get_order", {"reference": "R1"}) is None


async def test_the_result_is_the_answers_json(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [raw(b'{"b": 1,\n "a": [1.5, "x"]}', Content_Type="text/plain")]
    result = await hub.job().answer("erp.get_order", {"reference": "R1"})
    assert result.result == b'{"b":1,"a":[1.5,"x"]}'


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"\xff\xfe", b'{"a":NaN}', b'{"a":"\\u0000"}', b"[" * 40 + b"]" * 40, b'{"a":1}{"b":2}'],
)
async def test_a_success_that_is_no_json_within_limits_is_a_failure_of_the_integration(
    hub: Hub, system: ExternalSystem, body: bytes
) -> None:
    system.otherwise = raw(body)
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert error.metadata["http_status"] == "200"
    assert len(system.seen) == 1


async def test_a_result_of_a_mebibyte_passes_and_a_larger_one_does_not(
    hub: Hub, system: ExternalSystem
) -> None:
    system.plan = [huge((1 << 20) - 2), huge((1 << 20) - 1), huge(3 << 20)]
    job = hub.job()
    assert len((await job.answer("erp.get_order", {"reference": "R1"})).result) == 1 << 20
    for _ in range(2):
        error = await job.failure("erp.get_order", {"reference": "R1"})
        assert error.reason == "INTEGRATION_FAILED"
        assert "more than 1048576 bytes" in error.message


async def test_a_result_against_the_output_schema_is_a_failure_of_the_integration(
    hub: Hub, system: ExternalSystem
) -> None:
    system.plan = [answer(["no object"])]
    error = await hub.job().failure("erp.post_order", {"reference": "R1"})
    assert error.reason == "INTEGRATION_FAILED"
    assert "output schema" in error.message


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 412, 422, 428])
async def test_a_refusal_is_told_at_once_with_its_status_and_words(
    hub: Hub, system: ExternalSystem, code: int
) -> None:
    system.plan = [answer({"detail": "no\tsuch order"}, code)]
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INTEGRATION_REFUSED")
    assert error.metadata == {"integration": "erp", "operation": "get_order", "http_status": str(code)}
    assert "no\\tsuch order" in error.message
    assert len(system.seen) == 1


async def test_the_words_of_a_refusal_are_cut(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [raw(b"x" * (1 << 20), 400)]
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert len(error.message) < 400


async def test_redirects_are_refused_and_not_followed(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [raw(b"", 302, Location="/base/orders/elsewhere")]
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert error.reason == "INTEGRATION_REFUSED"
    assert len(system.seen) == 1


@pytest.mark.parametrize("fault", [status(500), status(503), status(408), status(425), reset(), broken_off()])
@pytest.mark.parametrize("tool", ["erp.get_order", "erp.put_order"])
async def test_reads_and_idempotent_calls_are_repeated_after_passing_faults(
    hub: Hub, system: ExternalSystem, fault: object, tool: str
) -> None:
    system.plan = [fault, fault]  # type: ignore[list-item]
    result = await hub.job().answer(tool, {"reference": "R1"})
    assert orjson.loads(result.result) == {"ok": True}
    assert result.request_count == len(system.seen) == 3


async def test_a_broken_connection_is_never_repeated_behind_the_retry_policy(
    hub: Hub, system: ExternalSystem
) -> None:
    job = hub.job()
    await job.call("erp.get_order", {"reference": "warm"})
    system.otherwise = reset()
    error = await job.failure("erp.get_order", {"reference": "R1"})
    assert error.reason == "INTEGRATION_FAILED"
    assert len(system.seen) == 1 + 3


async def test_tries_end_with_the_policy_and_the_error_says_when_to_come_back(
    hub: Hub, system: ExternalSystem
) -> None:
    system.otherwise = status(503)
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert error.retry_after is not None
    assert len(system.seen) == 3


async def test_a_try_that_hangs_is_cut_and_repeated(hub: Hub, system: ExternalSystem) -> None:
    never = asyncio.Event()
    system.plan = [held(never)]
    result = await hub.job().answer("erp.get_order", {"reference": "R1"})
    assert result.request_count == 2


async def test_the_integrations_budget_ends_a_call_that_only_hangs(hub: Hub, system: ExternalSystem) -> None:
    system.otherwise = held(asyncio.Event())
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert len(system.seen) == 3


async def test_the_callers_deadline_ends_a_call_that_hangs(hub: Hub, system: ExternalSystem) -> None:
    system.otherwise = held(asyncio.Event())
    error = await hub.job().failure("erp.get_order", {"reference": "R1"}, seconds=0.1)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(system.seen) == 1


async def test_a_deadline_that_has_passed_sends_nothing(hub: Hub, system: ExternalSystem) -> None:
    error = await hub.job().failure("erp.get_order", {"reference": "R1"}, seconds=-1)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert system.seen == []


async def test_retry_after_is_obeyed_within_the_budget(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [status(429, Retry_After="1")]
    start = time.monotonic()
    result = await hub.job().answer("erp.get_order", {"reference": "R1"})
    assert result.request_count == 2
    assert time.monotonic() - start >= 1.0


async def test_retry_after_as_a_date_beyond_the_budget_is_handed_to_the_caller(
    hub: Hub, system: ExternalSystem
) -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    system.plan = [status(503, Retry_After=later)]
    error = await hub.job().failure("erp.get_order", {"reference": "R1"})
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert error.retry_after is not None
    assert 90 < error.retry_after <= 100
    assert len(system.seen) == 1


async def test_a_system_that_is_not_there_is_tried_again_and_nothing_was_sent(hub: Hub) -> None:
    error = await hub.job().failure("nowhere.ask")
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED")
    assert "could not be reached" in error.message


async def test_a_full_bulkhead_refuses_at_once_and_frees_itself(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job = hub.job()
    asked = [job.answer("erp.get_order", {"reference": "R"}, step=str(n)) for n in range(9)]
    calls = [asyncio.create_task(each) for each in asked]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    (refused,) = (call for call in calls if call.done())
    error = refused.exception()
    assert isinstance(error, MeshError)
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert error.retry_after is not None
    release.set()
    calls.remove(refused)
    assert [each.request_count for each in await asyncio.gather(*calls)] == [1] * 8
    bulkhead = hub.catalogue.find("erp.get_order").link.bulkhead
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)
    assert system.most_running == 4


async def test_a_full_bulkhead_leaves_other_integrations_alone(hub: Hub, system: ExternalSystem) -> None:
    system.otherwise = held(asyncio.Event())
    job = hub.job()
    calls = [asyncio.create_task(job.failure("erp.get_order", {"reference": "R"})) for _ in range(8)]
    await system.wait_for(4)
    assert (await job.failure("nowhere.ask")).reason == "INTEGRATION_FAILED"
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_waiting_for_a_connection_does_not_count_against_a_try(system: ExternalSystem) -> None:
    yaml = YAML.replace("connections: 4", "connections: 1")

    async def slowly(request: object) -> object:
        await asyncio.sleep(0.2)
        return await answer({"ok": True})(request)  # type: ignore[arg-type]

    system.otherwise = slowly  # type: ignore[assignment]
    async with running_hub(yaml, {"URL": system.url}) as hub:
        job = hub.job()
        results = await asyncio.gather(
            *(job.answer("erp.get_order", {"reference": "R"}, step=str(n)) for n in range(4))
        )
    assert [each.request_count for each in results] == [1] * 4
    assert system.most_running == 1


async def test_retries_of_a_system_that_fails_for_all_stay_within_a_tenth_of_its_calls(
    system: ExternalSystem,
) -> None:
    system.otherwise = status(500)
    yaml = YAML.replace("running: 4, waiting: 4", "running: 64, waiting: 1000")
    async with running_hub(yaml, {"URL": system.url}) as hub:
        job = hub.job()
        await asyncio.gather(
            *(job.failure("erp.get_order", {"reference": "R"}, step=str(n)) for n in range(400))
        )
    assert 400 < len(system.seen) <= 400 + 40 + 10 + 5


async def test_connections_are_kept_and_shared(hub: Hub, system: ExternalSystem) -> None:
    ports: set[int] = set()

    async def note(request: object) -> object:
        ports.add(request.transport.get_extra_info("peername")[1])  # type: ignore[attr-defined]
        return await answer({"ok": True})(request)  # type: ignore[arg-type]

    system.otherwise = note  # type: ignore[assignment]
    for _ in range(5):
        await hub.job().call("erp.get_order", {"reference": "R"})
    assert len(ports) == 1
