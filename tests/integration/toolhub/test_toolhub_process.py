"""toolhub as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from grpc_health.v1 import health_pb2
from nacl.signing import SigningKey

from services.toolhub.service import SERVICE_NAME
from tests.integration.toolhub.external_system import ExternalSystem, held
from tests.integration.toolhub.hub import Conversation, Peer
from tests.integration.toolhub.scripted_ledger import ScriptedLedger
from workmesh import keys
from workmesh.rpc.client import open_channel

YAML = """
integrations:
  - {name: erp, kind: http, address: "${URL}", operations: {get: {method: GET, path: "/{id}", effect: read}}}
  - {name: bench, kind: noop, operations: {echo: {effect: idempotent}}}
"""
UNSAFE = "  - {name: late, kind: noop, operations: {fire: {effect: unsafe}}}\n"


@asynccontextmanager
async def process(directory: Path, yaml: str, environ: Mapping[str, str]) -> AsyncIterator[Process]:
    (directory / "integrations.yaml").write_text(yaml)
    settings = {
        "WORKMESH_TOOLHUB_INTEGRATIONS": str(directory / "integrations.yaml"),
        "WORKMESH_KEYS_DIRECTORY": str(directory),
        **environ,
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.toolhub", env={**os.environ, **settings}, stderr=PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def line_of(started: Process, action: str) -> dict[str, Any]:
    """Return the first log line of an action."""
    assert started.stderr is not None
    async with asyncio.timeout(20):
        async for line in started.stderr:
            fields: dict[str, Any] = orjson.loads(line)
            if fields["action"] == action:
                return fields
    raise AssertionError(f"the process ended without {action}")


async def health(channel: grpc.aio.Channel) -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=5, wait_for_ready=True)
    return int(answer.status)


def peer_at(port: int, directory: Path) -> Peer:
    key = SigningKey(keys.load_private_key(directory, keys.TOKENS))
    return Peer(open_channel(f"127.0.0.1:{port}"), key, ["erp.*", "bench.echo"])


async def test_it_serves_until_sigterm_and_finishes_what_it_began(
    system: ExternalSystem, tmp_path: Path
) -> None:
    keys.make_keys(tmp_path)
    release = asyncio.Event()
    system.otherwise = held(release)
    async with process(tmp_path, YAML, {"URL": system.url}) as started:
        port = (await line_of(started, "server_listening"))["port"]
        await line_of(started, "server_serving")
        hub = peer_at(port, tmp_path)
        job, stream = hub.job(), Conversation(hub)
        (quick,) = await stream.send([job.ask("bench.echo")], [job.token])
        assert (await quick).result == b'{"ok":true,"operation":"echo"}'
        (slow,) = await stream.send([job.ask("erp.get", {"id": "1"})])
        await system.wait_for(1)
        started.send_signal(signal.SIGTERM)
        await line_of(started, "signal_received")
        assert await health(hub.channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        release.set()
        assert (await slow).result == b'{"ok":true}'
        assert await stream.status() is grpc.StatusCode.OK
        assert await asyncio.wait_for(started.wait(), 10) == 0
        await hub.channel.close()


async def test_it_is_not_serving_until_the_ledger_takes_claims(
    ledger: ScriptedLedger, tmp_path: Path
) -> None:
    keys.make_keys(tmp_path)
    ledger.set_serving(False)
    environ = {"URL": "http://127.0.0.1:1", "WORKMESH_LEDGER_ADDRESS": ledger.address}
    async with process(tmp_path, YAML + UNSAFE, environ) as started:
        port = (await line_of(started, "server_listening"))["port"]
        await line_of(started, "ledger_probed")
        async with open_channel(f"127.0.0.1:{port}") as channel:
            assert await health(channel) == health_pb2.HealthCheckResponse.NOT_SERVING
        ledger.set_serving(True)
        await line_of(started, "server_serving")


@pytest.mark.parametrize(
    ("yaml", "problem"),
    [
        (YAML.replace("kind: http", "kind: htp"), "integrations[0].kind is 'htp'"),
        (YAML.replace("${URL}", "${NOT_SET}"), "integrations[0].address names the variable NOT_SET"),
        ("integrations: [", "integrations.yaml:1"),
    ],
)
async def test_a_mistake_in_the_document_ends_it_at_once_with_its_place(
    tmp_path: Path, yaml: str, problem: str
) -> None:
    keys.make_keys(tmp_path)
    async with process(tmp_path, yaml, {"URL": "http://127.0.0.1:1"}) as started:
        _, stderr = await started.communicate()
    assert started.returncode == 2
    assert problem in stderr.decode()
