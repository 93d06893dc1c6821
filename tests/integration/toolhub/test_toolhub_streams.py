"""InvokeTools: many calls over one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import orjson
import pytest
from nacl.signing import SigningKey

from tests.integration.toolhub.external_system import ExternalSystem, held, status
from tests.integration.toolhub.hub import Conversation, Hub, error_of, running_hub
from workmesh.toolhub.v1 import tool_service_pb2 as pb

YAML = """
integrations:
  - name: bench
    kind: noop
    operations:
      echo: {effect: idempotent}
      strict: {effect: read, input: {type: object, required: [x], properties: {x: {type: integer}}}}
  - name: erp
    kind: http
    address: ${URL}
    connections: 8
    bulkhead: {running: 8, waiting: 64}
    retry: {max_tries: 3, initial_delay: 5ms, max_delay: 20ms}
    operations:
      get: {method: GET, path: "/{id}", effect: read}
      put: {method: PUT, path: "/{id}", effect: idempotent}
"""


@pytest.fixture
async def hub(system: ExternalSystem) -> AsyncIterator[Hub]:
    async with running_hub(YAML, {"URL": system.url}, max_calls=16) as running:
        yield running


async def test_results_come_as_they_are_ready_not_in_the_order_of_calls(
    hub: Hub, system: ExternalSystem
) -> None:
    release = asyncio.Event()
    system.plan = [held(release)]
    job, stream = hub.job(), Conversation(hub)
    (slow,) = await stream.send([job.ask("erp.get", {"id": "slow"})], [job.token])
    await system.wait_for(1)
    quick = await stream.send(
        [job.ask("erp.get", {"id": "quick"}, step="2"), job.ask("bench.echo", step="3")]
    )
    await asyncio.gather(*quick)
    assert not slow.done()
    release.set()
    assert (await slow).WhichOneof("outcome") == "result"
    assert stream.order[-1] == 1
    assert await stream.finish() is grpc.StatusCode.OK


async def test_calls_of_one_message_run_at_once(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    futures = await stream.send(
        [job.ask("erp.get", {"id": str(n)}, step=str(n)) for n in range(8)], [job.token]
    )
    await system.wait_for(8)
    release.set()
    assert all(result.request_count == 1 for result in await asyncio.gather(*futures))
    await stream.finish()


async def test_results_of_one_message_travel_together(hub: Hub) -> None:
    job, stream = hub.job(), Conversation(hub)
    futures = await stream.send([job.ask("bench.echo", step=str(n)) for n in range(200)], [job.token])
    results = await asyncio.gather(*futures)
    assert {result.result for result in results} == {b'{"ok":true,"operation":"echo"}'}
    assert stream.messages <= 4
    await stream.finish()


async def test_a_token_is_shown_once_per_stream(hub: Hub) -> None:
    job, stream = hub.job(), Conversation(hub)
    (unknown,) = await stream.send([job.ask("bench.echo")])
    assert error_of(await unknown).code is grpc.StatusCode.UNAUTHENTICATED
    await stream.send([], [job.token])
    for step in "12":
        (known,) = await stream.send([job.ask("bench.echo", step=step)])
        assert (await known).WhichOneof("outcome") == "result"
    await stream.finish()


async def test_one_bad_call_harms_none_beside_it(hub: Hub) -> None:
    job, stream = hub.job(), Conversation(hub)
    forged = hub.job(key=SigningKey.generate())
    stranger, other_epoch = hub.job(), job.ask("bench.echo", epoch=2)
    calls = [
        job.ask("bench.echo"),
        forged.ask("bench.echo"),
        job.ask("bench.echo", job_id=stranger.job_id),
        other_epoch,
        job.ask("bench.nothing"),
        job.ask("customs.screen"),
        job.ask("bench.strict", {"x": "no"}),
        job.ask("bench.echo", b"[1]"),
        job.ask("bench.echo", b"{"),
        job.ask("bench.echo", step=""),
        job.ask("bench.echo", b'{"a":"' + b"x" * (1 << 20) + b'"}'),
        job.ask("bench.strict", {"x": 1}),
    ]
    results = await asyncio.gather(*await stream.send(calls, [job.token, forged.token]))
    reasons = [error_of(each).reason if each.HasField("error") else "ok" for each in results]
    assert reasons == [
        "ok",
        "TOKEN_INVALID",
        "TOOL_NOT_ALLOWED",
        "TOKEN_INVALID",
        "TOOL_NOT_FOUND",
        "TOOL_NOT_ALLOWED",
        "SCHEMA_MISMATCH",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "INVALID_FIELD",
        "PAYLOAD_TOO_LARGE",
        "ok",
    ]
    assert await stream.finish() is grpc.StatusCode.OK


@pytest.mark.parametrize("tools", [["bench.echo"], ["bench.*"]])
async def test_a_token_allows_an_operation_or_a_whole_integration(hub: Hub, tools: list[str]) -> None:
    job = hub.job(tools=tools)
    assert (await job.call("bench.echo"))["ok"] is True
    assert (await job.failure("erp.get", {"id": "1"})).reason == "TOOL_NOT_ALLOWED"


async def test_an_expired_token_is_refused(hub: Hub) -> None:
    error = await hub.job(seconds=-1.0).failure("bench.echo")
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")


async def test_a_schema_mismatch_names_each_wrong_field(hub: Hub) -> None:
    error = await hub.job().failure("bench.strict", {"x": "no"})
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["arguments.x"]


async def test_a_call_that_waits_is_cancelled_before_anything_is_sent(
    hub: Hub, system: ExternalSystem
) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    calls = [job.ask("erp.put", {"id": str(n)}, step=str(n)) for n in range(10)]
    futures = await stream.send(calls, [job.token])
    await system.wait_for(8)
    await stream.cancel(9, 10)
    (mark,) = await stream.send([job.ask("bench.echo")])
    await mark
    release.set()
    await asyncio.gather(*futures[:8])
    assert await stream.finish() is grpc.StatusCode.OK
    assert len(system.seen) == 8
    assert not futures[8].done()


async def test_a_stream_that_breaks_off_sends_nothing_more_but_sees_the_sent_to_its_end(
    hub: Hub, system: ExternalSystem
) -> None:
    release = asyncio.Event()
    system.otherwise = held(release, status(500))
    job, stream = hub.job(), Conversation(hub)
    calls = [job.ask("erp.put", {"id": str(n)}, step=str(n)) for n in range(12)]
    await stream.send(calls, [job.token])
    await system.wait_for(8)
    stream.break_off()
    await stream.ended
    bulkhead = hub.catalogue.find("erp.put").link.bulkhead
    # The waiters are gone before any place is free for them.
    async with asyncio.timeout(5):
        while bulkhead.waiting:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.001)
    assert bulkhead.running == 8
    release.set()
    await hub.calls.drain()
    assert len(system.seen) == 8
    assert bulkhead.running == 0


async def test_a_stream_takes_a_bounded_number_of_calls(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    calls = [job.ask("erp.get", {"id": str(n)}, step=str(n)) for n in range(20)]
    futures = await stream.send(calls, [job.token])
    refused = [error_of(each) for each in await asyncio.gather(*futures[16:])]
    assert {each.reason for each in refused} == {"QUEUE_FULL"}
    assert all(each.retry_after is not None for each in refused)
    release.set()
    assert all(each.HasField("result") for each in await asyncio.gather(*futures[:16]))
    await stream.finish()


async def test_a_call_id_in_use_ends_the_stream(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    await stream.send([job.ask("erp.get", {"id": "1"}, call_id=7)], [job.token])
    await system.wait_for(1)
    await stream.send([job.ask("erp.get", {"id": "2"}, call_id=7)])
    assert await stream.status() is grpc.StatusCode.INVALID_ARGUMENT
    release.set()


async def test_ending_the_stream_still_brings_the_results(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    (future,) = await stream.send([job.ask("erp.get", {"id": "1"})], [job.token])
    await system.wait_for(1)
    ending = asyncio.create_task(stream.finish())
    release.set()
    assert (await future).HasField("result")
    assert await ending is grpc.StatusCode.OK


async def test_draining_ends_streams_when_their_calls_are_done(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release)
    job, stream = hub.job(), Conversation(hub)
    (future,) = await stream.send([job.ask("erp.get", {"id": "1"})], [job.token])
    await system.wait_for(1)
    draining = asyncio.create_task(hub.service.drain())
    error = await job.failure("bench.echo")
    assert error.reason == "DRAINING"
    assert not draining.done()
    release.set()
    assert (await future).HasField("result")
    await draining
    assert await stream.status() is grpc.StatusCode.OK


async def test_a_caller_that_hangs_up_on_a_single_call_gives_it_up(hub: Hub, system: ExternalSystem) -> None:
    release = asyncio.Event()
    system.otherwise = held(release, status(500))
    job = hub.job()
    request = pb.InvokeToolRequest(token=job.token, call=job.ask("erp.put", {"id": "1"}))
    call = hub.stub.InvokeTool(request, timeout=10)
    await system.wait_for(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    # Its cancellation has arrived when a call sent after it is answered.
    await job.call("bench.echo")
    release.set()
    await hub.calls.drain()
    assert len(system.seen) == 1


async def test_a_call_may_not_name_another_token(hub: Hub) -> None:
    job, other = hub.job(), hub.job()
    await other.call("bench.echo")
    error = await job.failure("bench.echo", token_id=other.token.token_id)
    assert error.code is grpc.StatusCode.UNAUTHENTICATED


async def test_tools_are_listed_with_effect_and_schemas(hub: Hub) -> None:
    listed = await hub.stub.ListTools(pb.ListToolsRequest(), timeout=5)
    assert [tool.name for tool in listed.tools] == ["bench.echo", "bench.strict", "erp.get", "erp.put"]
    strict = listed.tools[1]
    assert strict.effect == pb.EFFECT_CLASS_READ
    assert strict.input_schema["required"][0] == "x"
    of_one = await hub.stub.ListTools(pb.ListToolsRequest(integration="erp"), timeout=5)
    assert [tool.name for tool in of_one.tools] == ["erp.get", "erp.put"]


async def test_a_result_tells_how_many_requests_it_took(hub: Hub, system: ExternalSystem) -> None:
    system.plan = [status(503)]
    job, stream = hub.job(), Conversation(hub)
    (future,) = await stream.send([job.ask("erp.put", {"id": "1"})], [job.token])
    result = await future
    assert orjson.loads(result.result) == {"ok": True}
    assert result.request_count == 2
    assert result.duration_micros > 0
    await stream.finish()
