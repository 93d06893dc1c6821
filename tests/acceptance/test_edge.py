"""What Envoy lets in, and what it says to those it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.acceptance.client import MeshClient, refused, submission
from workmesh.gateway.v1 import audit_service_pb2 as audit_pb
from workmesh.gateway.v1 import definition_service_pb2 as definition_pb
from workmesh.local.stack import Stack

BUF = Path(sys.executable).parent / "buf"


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c"])
async def test_a_call_without_a_valid_token_is_unauthenticated(mesh: Stack, token: str) -> None:
    async with MeshClient(mesh.edge_address, token) as nobody:
        error = await refused(nobody.submit(submission("echo", {"text": "x"})))
        assert error.code.name == "UNAUTHENTICATED"


async def test_an_expired_token_is_unauthenticated(mesh: Stack) -> None:
    async with MeshClient(mesh.edge_address, mesh.token("late", seconds=-120)) as late:
        assert (await refused(late.get(str(uuid.uuid4())))).code.name == "UNAUTHENTICATED"


async def test_identity_headers_from_outside_are_worth_nothing(mesh: Stack, client: MeshClient) -> None:
    job_id = await client.submit(submission("echo", {"text": "mine"}))
    owner = (await client.get(job_id)).client_id
    spoofed = [("x-workmesh-client", owner), ("x-workmesh-roles", "admin")]
    async with MeshClient(mesh.edge_address, mesh.token("thief"), spoofed) as thief:
        assert (await refused(thief.get(job_id))).code.name == "NOT_FOUND"
        exported = thief.audit.ExportBlocks(
            audit_pb.ExportBlocksRequest(), metadata=thief.metadata, timeout=10
        )
        assert (await refused(anext(aiter(exported)))).code.name == "PERMISSION_DENIED"
    async with MeshClient(mesh.edge_address, "", spoofed) as nobody:
        assert (await refused(nobody.get(job_id))).code.name == "UNAUTHENTICATED"


async def test_a_call_that_needs_a_role_is_refused_without_it(client: MeshClient) -> None:
    request = definition_pb.ApplyAgentDefinitionRequest()
    request.definition.agent = "mine"
    request.definition.code.handler = "mine"
    error = await refused(
        client.definitions.ApplyAgentDefinition(request, metadata=client.metadata, timeout=10)
    )
    assert (error.code.name, error.reason) == ("PERMISSION_DENIED", "ROLE_MISSING")


async def test_an_operator_applies_a_definition_once(mesh: Stack) -> None:
    request = definition_pb.ApplyAgentDefinitionRequest()
    request.definition.agent = f"applied-{uuid.uuid4().hex[:8]}"
    request.definition.code.handler = "echo"
    async with MeshClient(mesh.edge_address, mesh.token("ops", ["operator"])) as operator:
        answers = [
            await operator.definitions.ApplyAgentDefinition(request, metadata=operator.metadata, timeout=10)
            for _ in range(2)
        ]
    assert [each.created for each in answers] == [True, False]
    assert [each.definition.version for each in answers] == [1, 1]


async def test_an_auditor_verifies_the_chains_and_exports_them(mesh: Stack, client: MeshClient) -> None:
    await client.result(await client.submit(submission("echo", {"text": "audited"})))
    async with MeshClient(mesh.edge_address, mesh.token("books", ["auditor"])) as auditor:
        verdicts = [
            response.progress
            async for response in auditor.audit.VerifyChains(
                audit_pb.VerifyChainsRequest(), metadata=auditor.metadata, timeout=60
            )
        ]
        records = [
            record
            async for response in auditor.audit.ExportBlocks(
                audit_pb.ExportBlocksRequest(), metadata=auditor.metadata, timeout=60
            )
            for record in response.records
        ]
    assert verdicts[-1].finished
    assert not verdicts[-1].faults
    assert records[0].WhichOneof("record") == "header"
    assert records[-1].footer.block_count == len(records) - 2


async def test_the_edge_answers_health_without_a_token(mesh: Stack, client: MeshClient) -> None:
    stub: Any = health_pb2_grpc.HealthStub(client.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_an_unknown_service_is_unimplemented(client: MeshClient) -> None:
    call: Any = client.channel.unary_unary("/workmesh.ledger.v1.LedgerWriteService/CreateJobs")
    assert (await refused(call(b"", metadata=client.metadata, timeout=10))).code.name == "UNIMPLEMENTED"


def curl(mesh: Stack, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """Call through Envoy with buf curl, by reflection."""
    command = [str(BUF), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    if token:
        command += ["--header", f"Authorization: Bearer {token}", "--reflect-header", "*"]
    url = f"http://{mesh.edge_address}"
    *options, path = arguments
    return subprocess.run(
        [*command, *options, f"{url}{path}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )


def test_reflection_lists_the_services_through_envoy(mesh: Stack) -> None:
    listed = curl(mesh, "--list-services", "")
    assert listed.returncode == 0, listed.stderr
    assert {
        "workmesh.gateway.v1.AuditService",
        "workmesh.gateway.v1.DefinitionService",
        "workmesh.gateway.v1.JobService",
        "workmesh.gateway.v1.StateService",
    } <= set(listed.stdout.split())


def test_a_job_is_submitted_and_watched_with_nothing_but_reflection(mesh: Stack) -> None:
    token = mesh.token(f"curl-{uuid.uuid4().hex[:8]}")
    job = f'{{"job": {{"request_id": "{uuid.uuid4()}", "agent": "echo", "input": {{"text": "by hand"}}}}}}'
    submitted = curl(mesh, "--data", job, "/workmesh.gateway.v1.JobService/SubmitJob", token=token)
    assert submitted.returncode == 0, submitted.stderr
    job_id = submitted.stdout.split('"jobId":')[1].split('"')[1]
    watched = curl(
        mesh,
        "--data",
        f'{{"job_id": "{job_id}"}}',
        "/workmesh.gateway.v1.JobService/WatchJob",
        token=token,
    )
    assert watched.returncode == 0, watched.stderr
    assert "JOB_STATE_SUCCEEDED" in watched.stdout


def test_a_call_by_hand_without_a_token_is_unauthenticated(mesh: Stack) -> None:
    refused_call = curl(mesh, "--data", "{}", "/workmesh.gateway.v1.JobService/ListJobs")
    assert refused_call.returncode != 0
    assert "unauthenticated" in refused_call.stderr
