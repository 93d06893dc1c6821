"""A toolhub on a free port, put together as its process does, and a caller with job tokens."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import grpc
import orjson
from nacl.signing import SigningKey, VerifyKey

from services.toolhub.admission import Admission
from services.toolhub.calls import Calls
from services.toolhub.catalogue import Catalogue
from services.toolhub.claims import LedgerClaims
from services.toolhub.drivers import Driver
from services.toolhub.effects import Effects
from services.toolhub.http import HttpDriver
from services.toolhub.integrations import Integration, Kind
from services.toolhub.noop import NoopDriver
from services.toolhub.reading import read_integrations
from services.toolhub.service import SERVICE_NAME, ToolService
from workmesh import errors
from workmesh.clock import SystemClock, micros
from workmesh.common.v1.token_pb2 import Grant, JobToken, TokenClaims, ToolSet
from workmesh.errors import MeshError
from workmesh.ids import uuid7
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings
from workmesh.telemetry import Telemetry
from workmesh.tokens import TokenSigner, TokenVerifier
from workmesh.toolhub.v1 import tool_service_pb2 as pb
from workmesh.toolhub.v1.tool_service_pb2_grpc import (
    ToolServiceStub,
    add_ToolServiceServicer_to_server,
)


class Peer:
    """A toolhub somewhere, and the key with which it believes tokens to be signed."""

    def __init__(self, channel: grpc.aio.Channel, key: SigningKey, tools: Sequence[str]) -> None:
        self.channel = channel
        self.key = key
        self.tools = tools
        self.stub: Any = ToolServiceStub(channel)

    def job(self, **claims: Any) -> Job:
        """Return a new job with a token of its own, for all tools unless it says which."""
        return Job(self, **{"tools": self.tools, **claims})


class Hub(Peer):
    """A toolhub in this process, its parts at hand."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        key: SigningKey,
        service: ToolService,
        calls: Calls,
        catalogue: Catalogue,
    ) -> None:
        names = {target.link.integration.name for target in catalogue.targets()}
        super().__init__(channel, key, [f"{name}.*" for name in sorted(names)])
        self.service = service
        self.calls = calls
        self.catalogue = catalogue


@dataclass
class Job:
    """A job that may call tools."""

    hub: Peer
    tools: Sequence[str]
    epoch: int = 1
    series: int = 1
    seconds: float = 60.0
    job_id: str = field(default_factory=uuid7)
    key: SigningKey | None = None

    def __post_init__(self) -> None:
        self.token = self.make_token()

    def make_token(self) -> JobToken:
        now = time.time()
        claims = TokenClaims(
            token_id=uuid7(),
            issue_time_micros=micros(now),
            expire_time_micros=micros(now + self.seconds),
            tool_sets=[ToolSet(tools=self.tools)],
            grants=[Grant(job_id=self.job_id, epoch=self.epoch, series=self.series, client_id="tester")],
        )
        return TokenSigner(bytes(self.key or self.hub.key)).sign(claims)

    def ask(self, tool: str, arguments: Any = None, *, step: str = "1", **fields: Any) -> pb.ToolCall:
        """Return a call; `seconds` until the caller stops waiting."""
        seconds = fields.pop("seconds", None)
        body = arguments if isinstance(arguments, bytes) else orjson.dumps(arguments or {})
        if seconds is not None:
            fields["deadline_micros"] = micros(time.time() + seconds)
        return pb.ToolCall(
            **{
                "token_id": self.token.token_id,
                "job_id": self.job_id,
                "epoch": self.epoch,
                "step": step,
                "tool": tool,
                "arguments": body,
                **fields,
            }
        )

    async def answer(self, tool: str, arguments: Any = None, **fields: Any) -> pb.ToolResult:
        """Make a call by itself; MeshError when it fails."""
        request = pb.InvokeToolRequest(token=self.token, call=self.ask(tool, arguments, **fields))
        try:
            response = await self.hub.stub.InvokeTool(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        result: pb.ToolResult = response.result
        return result

    async def call(self, tool: str, arguments: Any = None, **fields: Any) -> Any:
        """Make a call by itself and return its result's value."""
        return orjson.loads((await self.answer(tool, arguments, **fields)).result)

    async def failure(self, tool: str, arguments: Any = None, **fields: Any) -> MeshError:
        """Make a call that must fail and return its error."""
        try:
            result = await self.answer(tool, arguments, **fields)
        except MeshError as error:
            return error
        raise AssertionError(f"the call succeeded: {result.result!r}")


class Conversation:
    """One InvokeTools stream, its results by call_id."""

    def __init__(self, hub: Peer) -> None:
        self._call = hub.stub.InvokeTools()
        self._ids = count(1)
        self._waiting: dict[int, asyncio.Future[pb.ToolResult]] = {}
        self.order: list[int] = []
        self.messages = 0
        self.ended = asyncio.get_running_loop().create_task(self._read())

    async def send(self, calls: Sequence[pb.ToolCall], tokens: Sequence[JobToken] = ()) -> list[Any]:
        """Send calls in one message and return the futures of their results."""
        futures = []
        for call in calls:
            call.call_id = call.call_id or next(self._ids)
            futures.append(asyncio.get_running_loop().create_future())
            self._waiting[call.call_id] = futures[-1]
        await self._call.write(pb.InvokeToolsRequest(tokens=tokens, calls=calls))
        return futures

    async def cancel(self, *call_ids: int) -> None:
        await self._call.write(pb.InvokeToolsRequest(cancelled_call_ids=call_ids))

    async def finish(self) -> grpc.StatusCode:
        """Say that no more calls come and return the status the stream ends with."""
        await self._call.done_writing()
        return await self.status()

    async def status(self) -> grpc.StatusCode:
        await self.ended
        code: grpc.StatusCode = await self._call.code()
        return code

    def break_off(self) -> None:
        self._call.cancel()

    async def _read(self) -> None:
        try:
            async for message in self._call:
                self.messages += 1
                for result in message.results:
                    self.order.append(result.call_id)
                    self._waiting.pop(result.call_id).set_result(result)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            # The status tells; those who still wait are told by `ended`.
            return


def error_of(result: pb.ToolResult) -> MeshError:
    """Return the error of a result that must be one."""
    assert result.WhichOneof("outcome") == "error", result
    return errors.from_status(result.error)


@asynccontextmanager
async def running_hub(
    yaml: str,
    environ: Mapping[str, str],
    *,
    ledger_address: str = "127.0.0.1:1",
    max_calls: int = 1_024,
    verify_key: VerifyKey | None = None,
) -> AsyncIterator[Hub]:
    """Run a toolhub with the integrations of a document, by default for tokens of the tests' own."""
    clock = SystemClock()
    key = SigningKey.generate()

    def connect(integration: Integration) -> Driver:
        return HttpDriver(integration, clock) if integration.kind is Kind.HTTP else NoopDriver()

    catalogue = Catalogue(read_integrations(yaml, environ), connect, clock, random.random)
    channel = open_channel(ledger_address)
    claims = LedgerClaims(channel, "toolhub-test", clock)
    calls = Calls(Effects(claims, clock), clock, Telemetry())
    admission = Admission(catalogue, TokenVerifier(bytes(verify_key or key.verify_key), clock))
    service = ToolService(catalogue, admission, calls, clock, max_calls=max_calls)
    server = MeshServer(ServerSettings("toolhub"))
    server.add(add_ToolServiceServicer_to_server, service, SERVICE_NAME)
    port = await server.start()
    server.set_serving(True)
    own = open_channel(f"127.0.0.1:{port}")
    try:
        yield Hub(own, key, service, calls, catalogue)
    finally:
        await own.close()
        await server.stop(0)
        async with asyncio.timeout(15):
            await calls.drain()
        await claims.close()
        await channel.close()
        await catalogue.close()
