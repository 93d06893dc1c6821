"""A secret reaches the system it is for, and nothing else."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from services.toolhub.reading import read_integrations
from tests.integration.toolhub.external_system import (
    ExternalSystem,
    Reaction,
    answer,
    broken_off,
    echo_headers,
    held,
    raw,
    reset,
)
from tests.integration.toolhub.hub import Conversation, Hub, running_hub
from tests.integration.toolhub.scripted_ledger import ScriptedLedger
from workmesh import log, metrics
from workmesh.config import ConfigError
from workmesh.toolhub.v1 import tool_service_pb2 as pb

SECRET = 's3cr3t/with"quote\\and+more='
YAML = """
integrations:
  - name: erp
    kind: http
    address: ${URL}
    secret: {env: ERP_TOKEN}
    timeout: {try: 300ms, total: 1s}
    retry: {max_tries: 2, initial_delay: 5ms, max_delay: 20ms}
    settle_delay: 10ms
    operations:
      get: {method: GET, path: "/{id}", effect: read}
      strict: {method: GET, path: "/{id}", effect: read, output: {properties: {you_sent: {type: string}}}}
      post: {method: POST, path: /, effect: unsafe, read_back: {operation: get}}
"""


@pytest.fixture
def lines() -> Iterator[io.BytesIO]:
    """Everything that any logger says, as a process would write it."""
    stream = io.BytesIO()
    handler = log.JsonHandler("toolhub", "test", stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def assert_hidden(text: str) -> None:
    for form in (SECRET, SECRET.replace("\\", "\\\\").replace('"', '\\"'), "s3cr3t"):
        assert form not in text


async def outcomes(hub: Hub) -> list[pb.ToolResult]:
    job, stream = hub.job(), Conversation(hub)
    tools = ("erp.get", "erp.strict", "erp.post")
    calls = [job.ask(tool, {"id": "1"}, step=tool) for tool in tools]
    results = await asyncio.gather(*await stream.send(calls, [job.token]))
    await stream.finish()
    return results


@pytest.mark.parametrize(
    "reaction",
    [
        echo_headers(),
        echo_headers(400),
        echo_headers(401),
        echo_headers(500),
        echo_headers(302),
        raw(SECRET.encode() * 2_000, 500),
        raw(SECRET.encode() * 2_000, 403),
        raw(SECRET.encode()),
        answer({SECRET: [SECRET]}),
        answer(f"Bearer {SECRET}", 429, Retry_After=SECRET),
        reset(),
        broken_off(),
        held(asyncio.Event()),
    ],
)
async def test_a_secret_that_the_system_throws_back_goes_no_further(
    system: ExternalSystem, ledger: ScriptedLedger, lines: io.BytesIO, reaction: Reaction
) -> None:
    system.otherwise = reaction
    environ = {"URL": system.url, "ERP_TOKEN": SECRET}
    async with running_hub(YAML, environ, ledger_address=ledger.address) as hub:
        for result in await outcomes(hub):
            assert_hidden(str(result))
            for detail in result.error.details:
                assert_hidden(detail.value.decode("latin-1"))
        assert_hidden(str(await hub.stub.ListTools(pb.ListToolsRequest(), timeout=5)))
        assert_hidden(repr([target.link.integration for target in hub.catalogue.targets()]))
    assert all(each.headers["Authorization"] == f"Bearer {SECRET}" for each in system.seen)
    assert len(system.seen) >= 3
    assert lines.getvalue()
    assert_hidden(lines.getvalue().decode())
    assert_hidden(generate_latest(metrics.REGISTRY).decode())
    for effect in ledger.effects.values():
        assert_hidden(effect.result.decode())


async def test_a_secret_may_come_from_a_file_and_go_into_another_header(
    system: ExternalSystem, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    secret = f'secret: {{file: "{tmp_path}/token", header: X-Api-Key, scheme: ""}}'
    async with running_hub(YAML.replace("secret: {env: ERP_TOKEN}", secret), {"URL": system.url}) as hub:
        await hub.job().call("erp.get", {"id": "1"})
    assert system.seen[0].headers["X-Api-Key"] == SECRET
    assert "Authorization" not in system.seen[0].headers


def test_no_mistake_in_the_document_quotes_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\u00e9")
    yaml = f"""
integrations:
  - name: ${{TOKEN}}
    kind: ${{TOKEN}}
    address: http://user:${{TOKEN}}@host/
    secret: {{env: TOKEN, header: "${{TOKEN}}", scheme: "${{TOKEN}}"}}
    connections: ${{TOKEN}}
    timeout: {{try: "${{TOKEN}}"}}
    operations: {{get: {{method: "${{TOKEN}}", path: "${{TOKEN}}", effect: "${{TOKEN}}"}}}}
  - name: other
    kind: http
    address: ${{TOKEN}}
    secret: {{file: "{tmp_path}/token"}}
    operations: {{get: {{method: GET, path: /, effect: read}}}}
"""
    with pytest.raises(ConfigError) as caught:
        read_integrations(yaml, {"TOKEN": SECRET})
    assert len(caught.value.problems) >= 9
    assert_hidden(str(caught.value))
