"""The one server bootstrap: health, reflection, guard, readiness and a graceful end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from workmesh.config import ConfigError
from workmesh.rpc.client import MAX_MESSAGE_BYTES
from workmesh.rpc.guard import Gate, GuardInterceptor
from workmesh.rpc.health import SERVICE_NAME, Health

_logger = logging.getLogger(__name__)

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

_GC_THRESHOLDS: Final = (50_000, 50, 100)

Servicer = TypeVar("Servicer", contravariant=True)


class Register(Protocol[Servicer]):
    """A generated `add_<Service>Servicer_to_server`."""

    def __call__(self, servicer: Servicer, server: grpc.aio.Server) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where and how a service listens: port 0 takes a free one, grace counts seconds."""

    name: str
    host: str = "127.0.0.1"
    port: int = 0
    grace: float = 10.0
    max_message_bytes: int = MAX_MESSAGE_BYTES


class MeshServer:
    """A gRPC server that is NOT_SERVING until told otherwise.

    Until it serves for the first time, calls to the mesh's own services are refused UNAVAILABLE; while it
    drains they are still answered, and only its health says that new ones belong elsewhere.
    """

    def __init__(
        self, settings: ServerSettings, *, interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
    ) -> None:
        self.settings = settings
        self._gate = Gate()
        self._server = grpc.aio.server(
            interceptors=[GuardInterceptor(settings.name, self._gate), *interceptors],
            options=_options(settings.max_message_bytes),
        )
        self._names: list[str] = []
        self._health = Health()
        self._failure: asyncio.Future[NoReturn] = asyncio.get_running_loop().create_future()

    def add(self, register: Register[Servicer], servicer: Servicer, full_service_name: str) -> None:
        """Add a service; its full name is like `workmesh.ledger.v1.FeedService`."""
        register(servicer, self._server)
        self._names.append(full_service_name)

    async def start(self) -> int:
        """Listen and return the port; RuntimeError when it is taken."""
        self._health.add(self._names)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add_reflection()
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        port = self._server.add_insecure_port(f"{host}:{self.settings.port}")
        await self._server.start()
        _logger.info("listening", extra={"action": "server_listening", "host": host, "port": port})
        return port

    def set_serving(self, serving: bool) -> None:
        """Tell health checks whether to send calls here."""
        if serving:
            self._gate.open = True
        self._health.set(serving)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more calls, wait up to the grace (seconds) for running ones, then cut them off."""
        self._health.close()
        await self._server.stop(self.settings.grace if grace is None else grace)

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Let the process end, to be started afresh, when a task that it cannot do without fails."""
        task.add_done_callback(self._task_ended)

    @property
    def failure(self) -> asyncio.Future[NoReturn]:
        """The future that raises what a watched task raised."""
        return self._failure

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        _logger.critical(
            "a task the process needs has failed",
            exc_info=error,
            extra={"action": "task_failed", "task": task.get_name()},
        )
        if not self._failure.done():
            self._failure.set_exception(error)

    def _add_reflection(self) -> None:
        names = (*self._names, SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        # The messages of v1 are those of v1alpha under another name, and newer tools ask for v1 first.
        method = grpc.stream_stream_rpc_method_handler(
            ReflectionServicer(names).ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": method}),)
        )


async def serve_until_signal(
    server: MeshServer,
    *,
    ready: Callable[[], Awaitable[object]],
    drain: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Start, await `ready`, serve until SIGTERM or SIGINT, then drain and stop.

    From the signal on, draining and stopping together take at most the settings' grace; a second signal
    cuts them short. What `ready` or a watched task raises is raised here once the server has stopped.
    """
    signals = _Signals()
    with signals:
        await server.start()
        try:
            if await _unless(signals.first, server.failure, ready()):
                server.set_serving(True)
                _settle_memory(server.settings.name)
                await _unless(signals.first, server.failure, None)
        finally:
            await _finish(server, drain, signals)


def run(main: Callable[[], Coroutine[Any, Any, int | None]]) -> NoReturn:
    """Run a service's main on uvloop and exit: 0, what it returns, 1 for an exception, 2 for bad settings."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(main()) or 0
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        code = 2
    except KeyboardInterrupt:
        code = 130
    except Exception:
        _logger.critical("the process ends", exc_info=True, extra={"action": "process_failed"})
        code = 1
    sys.exit(code)


class _Signals:
    """SIGTERM and SIGINT as two events: the first asks to end, the second not to wait."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._received, number)

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)

    def _received(self, number: int) -> None:
        _logger.info("stopping", extra={"action": "signal_received", "signal": signal.Signals(number).name})
        (self.second if self.first.is_set() else self.first).set()


async def _unless(
    stop: asyncio.Event, failure: asyncio.Future[NoReturn], work: Awaitable[object] | None
) -> bool:
    """Await the work, or for ever without one; False when told to stop first. Raises what either raises."""
    stopped = asyncio.ensure_future(stop.wait())
    working: list[asyncio.Future[Any]] = [] if work is None else [asyncio.ensure_future(work)]
    awaited: set[asyncio.Future[Any]] = {stopped, failure, *working}
    try:
        done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        for each in done - {stopped}:
            each.result()
        return stopped not in done
    finally:
        for each in (stopped, *working):
            each.cancel()
        await asyncio.gather(stopped, *working, return_exceptions=True)


async def _finish(
    server: MeshServer, drain: Callable[[], Awaitable[object]] | None, signals: _Signals
) -> None:
    server.set_serving(False)
    ending = asyncio.ensure_future(_drain_and_stop(server, drain))
    hurried = asyncio.ensure_future(signals.second.wait())
    try:
        await asyncio.wait({ending, hurried}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            await server.stop(0)
            return
        ending.result()
    finally:
        hurried.cancel()
        _logger.info("stopped", extra={"action": "server_stopped"})


async def _drain_and_stop(server: MeshServer, drain: Callable[[], Awaitable[object]] | None) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + server.settings.grace
    try:
        if drain is not None:
            async with asyncio.timeout_at(end):
                await drain()
    except TimeoutError:
        _logger.warning("draining took longer than the grace", extra={"action": "drain_cut"})
    finally:
        await server.stop(max(0.1, end - loop.time()))


def _settle_memory(name: str) -> None:
    """Take what start-up made out of the collector's sight: it lives as long as the process.

    And let it look less often: a batch makes thousands of messages that reference counting alone frees.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    _logger.info("serving", extra={"action": "server_serving", "server": name})


def _options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        # Two processes on one port would share calls silently: a stale one must be an error.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]
