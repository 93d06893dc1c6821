from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.unit.runtime.mesh import STREAM, STREAM_METHOD, UNARY, UNARY_METHOD, Behavior, Peer, peer
from workmesh import errors
from workmesh.errors import MeshError, Violation

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def raising(error: Exception) -> Behavior:
    async def behave(context: Any) -> None:
        raise error

    return behave


async def failure(call: Any) -> MeshError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return errors.from_rpc_error(failed.value)


async def health(mesh: Peer, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(mesh.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
    return int(answer.status)


async def test_a_server_serves_when_told_and_not_before() -> None:
    async with peer(serving=False) as mesh:
        assert await health(mesh) == NOT_SERVING
        refused = await failure(mesh.call())
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")
        mesh.server.set_serving(True)
        assert [await health(mesh, name) for name in ("", UNARY, STREAM)] == [SERVING] * 3
        await mesh.call()


async def test_a_draining_server_says_so_and_still_answers() -> None:
    async with peer() as mesh:
        mesh.server.set_serving(False)
        assert await health(mesh) == NOT_SERVING
        await mesh.call()


async def test_the_health_of_an_unknown_service_is_not_found() -> None:
    async with peer() as mesh:
        assert (await failure(health(mesh, "no.such.Service"))).code is grpc.StatusCode.NOT_FOUND


async def test_those_who_watch_health_learn_each_change_and_do_not_hold_up_a_stop() -> None:
    async with peer(serving=False, grace=60) as mesh:
        stub: Any = health_pb2_grpc.HealthStub(mesh.channel)
        watch = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
        seen = [(await anext(watch)).status]
        mesh.server.set_serving(True)
        seen.append((await anext(watch)).status)
        async with asyncio.timeout(5):
            await mesh.server.stop()
            seen += [each.status async for each in watch]
        assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_the_services_to_old_and_new_tools(version: str) -> None:
    async with peer() as mesh:
        ask = mesh.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)
        (answer,) = [each async for each in call]
        names = {service.name for service in answer.list_services_response.service}
        assert {UNARY, STREAM, "grpc.health.v1.Health"} <= names


async def test_an_error_reaches_the_caller_with_all_its_details() -> None:
    sent = errors.resource_exhausted("QUEUE_FULL", "full", retry_after=0.25, queue="create")
    async with peer(raising(sent)) as mesh:
        for call in (mesh.call(), mesh.stream(1)):
            got = await failure(call)
            assert (got.code, got.reason, got.message) == (sent.code, sent.reason, sent.message)
            assert (got.retry_after, got.metadata) == (0.25, {"queue": "create"})


async def test_an_unknown_exception_is_internal_and_told_to_the_log_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with peer(raising(KeyError("hunter2"))) as mesh:
        for call in (mesh.call(), mesh.stream(1)):
            got = await failure(call)
            assert (got.code, got.message) == (grpc.StatusCode.INTERNAL, "internal error")
    failed = [record for record in caplog.records if getattr(record, "action", "") == "call_failed"]
    assert [getattr(record, "method", "") for record in failed] == [UNARY_METHOD, STREAM_METHOD]
    assert all(record.exc_info and "hunter2" in str(record.exc_info[1]) for record in failed)


async def test_a_handler_that_ran_out_of_time_says_so() -> None:
    async with peer(raising(TimeoutError())) as mesh:
        assert (await failure(mesh.call())).code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_dependency_that_is_down_shows_through_and_one_that_objects_is_our_fault() -> None:
    async with peer(raising(errors.permission_denied("ROLE_MISSING", "no"))) as below:

        async def ask_below(context: Any) -> None:
            await below.call()

        async with peer(ask_below) as above:
            assert (await failure(above.call())).code is grpc.StatusCode.INTERNAL
            await below.server.stop(0)
            shown = await failure(above.call())
            assert (shown.code, shown.reason) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_DOWN")


async def test_a_handlers_own_abort_stands() -> None:
    async def behave(context: Any) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as the handler says")

    async with peer(behave) as mesh:
        for call in (mesh.call(), mesh.stream(1)):
            got = await failure(call)
            assert (got.code, got.message) == (grpc.StatusCode.DATA_LOSS, "as the handler says")


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x01\xff", b"\x0a\x7f"])
async def test_a_request_that_cannot_be_parsed_is_an_invalid_argument(data: bytes) -> None:
    async with peer() as mesh:
        unary: Any = mesh.channel.unary_unary(UNARY_METHOD)
        got = await failure(unary(data, timeout=5))
        assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")

        stream: Any = mesh.channel.stream_stream(STREAM_METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            _ = [each async for each in stream(iter([data]), timeout=5)]
        assert errors.from_rpc_error(failed.value).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_whose_deadline_is_too_near_is_refused_before_it_begins() -> None:
    begun = []

    async def behave(context: Any) -> None:
        begun.append(context)

    async with peer(behave) as mesh:
        assert (await failure(mesh.call(timeout=0.004))).code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert begun == []


async def test_details_that_trailers_cannot_carry_are_cut_and_the_cause_still_arrives() -> None:
    violations = [Violation(f"jobs[{number}]", "x" * 100) for number in range(1_000)]
    async with peer(raising(errors.invalid_argument("m" * 50_000, *violations))) as mesh:
        got = await failure(mesh.call())
        assert (got.code, got.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert len(got.message) == 1_000


async def test_a_message_beyond_the_limit_is_refused() -> None:
    async with peer() as mesh:
        unary: Any = mesh.channel.unary_unary(UNARY_METHOD)
        got = await failure(unary(bytes(5 << 20), timeout=5))
        assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Refuses every call before its handler is known."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise self._error


async def test_what_an_interceptor_raises_is_answered_as_if_the_handler_had() -> None:
    refusal = errors.permission_denied("ROLE_MISSING", "no", role="operator")
    async with peer(interceptors=[Doorkeeper(refusal)]) as mesh:
        for call in (mesh.call(), mesh.stream(1)):
            got = await failure(call)
            assert (got.code, got.reason, got.metadata) == (
                refusal.code,
                "ROLE_MISSING",
                {"role": "operator"},
            )
    async with peer(interceptors=[Doorkeeper(KeyError("x"))]) as mesh:
        assert (await failure(mesh.call())).code is grpc.StatusCode.INTERNAL


async def test_a_taken_port_is_an_error_and_not_shared() -> None:
    async with peer() as mesh:
        with pytest.raises(RuntimeError):
            async with peer(port=mesh.port):
                pass


async def test_a_stop_lets_running_calls_finish_within_the_grace() -> None:
    begun, finish = asyncio.Event(), asyncio.Event()

    async def behave(context: Any) -> None:
        begun.set()
        await finish.wait()

    async with peer(behave, grace=10) as mesh:
        running = asyncio.ensure_future(mesh.call())
        await begun.wait()
        stopping = asyncio.ensure_future(mesh.server.stop())
        await asyncio.sleep(0)
        finish.set()
        await running
        await stopping


async def test_a_stop_cuts_off_what_outlasts_the_grace() -> None:
    begun = asyncio.Event()
    cancelled = asyncio.Event()

    async def behave(context: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with peer(behave) as mesh:
        running = asyncio.ensure_future(mesh.call())
        await begun.wait()
        await mesh.server.stop(0.05)
        assert (await failure(running)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_a_watched_task_that_fails_is_the_servers_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        raise LookupError("lost")

    async with peer() as mesh:
        with caplog.at_level(logging.CRITICAL):
            mesh.server.watch(asyncio.create_task(work(), name="projection"))
            with pytest.raises(LookupError, match="lost"):
                await mesh.server.failure
        assert [getattr(record, "task", "") for record in caplog.records] == ["projection"]
