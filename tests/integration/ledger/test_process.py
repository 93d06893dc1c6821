"""The process as it is run: one server, all its services, health and a graceful end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.integration.ledger.harness import OPERATOR, new_job, reason, until
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.ids import uuid7
from workmesh.ledger.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    feed_service_pb2,
    feed_service_pb2_grpc,
)
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Event
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.local.stack import Stack
from workmesh.rpc.client import open_channel

if TYPE_CHECKING:
    from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceAsyncStub

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(only=("postgres", "ledger"), home=tmp_path) as opened:
        yield opened


async def health(channel: grpc.aio.Channel) -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    response = await check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(response.status)


async def define(ledger: LedgerWriteServiceAsyncStub) -> None:
    definition = AgentDefinition(agent="booking", code=CodeHandler(handler="booking"))
    await ledger.ApplyDefinitions(
        pb.ApplyDefinitionsRequest(definitions=[definition], actor=OPERATOR), timeout=5
    )


async def test_a_job_goes_through_the_process_and_its_blocks_through_the_feed(stack: Stack) -> None:
    async with open_channel(stack.ledger_address) as channel:
        ledger = LedgerWriteServiceStub(channel)
        await define(ledger)
        feed = feed_service_pb2_grpc.FeedServiceStub(channel)
        tail = feed.TailBlocks(feed_service_pb2.TailBlocksRequest(), timeout=20)
        job = new_job()
        await ledger.CreateJobs(pb.CreateJobsRequest(jobs=[job], instance="gateway-1"), timeout=5)
        offer = pb.BeginAttempt(job_id=job.job_id, dispatch=1, lease_id=uuid7())
        begun = await ledger.BeginAttempts(
            pb.BeginAttemptsRequest(attempts=[offer], instance="agent-1"), timeout=5
        )
        assert begun.token.claims
        commit = pb.CommitAttempt(attempt=pb.AttemptRef(job_id=job.job_id, epoch=1), output=b"{}")
        done = await ledger.CommitAttempts(
            pb.CommitAttemptsRequest(attempts=[commit], instance="agent-1"), timeout=5
        )
        assert reason(done.results[0].status) == ""
        types: list[str] = []
        async for part in tail:
            for block in part.blocks:
                events = map(Event.FromString, block.events)
                types += [str(each.WhichOneof("payload")) for each in events if each.job_id]
            if "job_succeeded" in types:
                break
        tail.cancel()
        assert sorted(types) == ["attempt_begun", "job_created", "job_succeeded"]
        audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        verdicts = [
            each async for each in audit.VerifyChains(audit_service_pb2.VerifyChainsRequest(), timeout=20)
        ]
        assert (verdicts[-1].finished, list(verdicts[-1].faults)) == (True, [])


async def test_health_follows_the_database_and_recovers_by_itself(stack: Stack) -> None:
    async with open_channel(stack.ledger_address) as channel:
        ledger = LedgerWriteServiceStub(channel)
        await define(ledger)
        assert await health(channel) == SERVING
        pid = stack.pids()["ledger"]
        await stack.stop_process("postgres")

        async def healthy() -> bool:
            return await health(channel) == SERVING

        async def unhealthy() -> bool:
            return not await healthy()

        await until(unhealthy)
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await ledger.CreateJobs(pb.CreateJobsRequest(jobs=[new_job()], instance="gateway-1"), timeout=10)
        assert away.value.code() is grpc.StatusCode.UNAVAILABLE
        await stack.start_process("postgres")
        await until(healthy)
        created = await ledger.CreateJobs(
            pb.CreateJobsRequest(jobs=[new_job()], instance="gateway-1"), timeout=10
        )
        assert reason(created.results[0].status) == ""
        assert stack.pids()["ledger"] == pid


async def test_sigterm_answers_what_was_asked_and_the_next_process_goes_on(stack: Stack) -> None:
    async with open_channel(stack.ledger_address) as channel:
        ledger = LedgerWriteServiceStub(channel)
        await define(ledger)
        jobs = [new_job() for _ in range(200)]
        calls = [
            asyncio.ensure_future(
                ledger.CreateJobs(pb.CreateJobsRequest(jobs=[job], instance="gateway-1"), timeout=20)
            )
            for job in jobs
        ]
        await calls[0]
        await stack.restart("ledger")
        answers = await asyncio.gather(*calls, return_exceptions=True)
        accepted, refused = set[str](), set[grpc.StatusCode]()
        for job, each in zip(jobs, answers, strict=True):
            if isinstance(each, grpc.aio.AioRpcError):
                refused.add(each.code())
            else:
                assert isinstance(each, pb.CreateJobsResponse)
                accepted.add(job.job_id)
        # gRPC itself cancels what it had received but not yet handed to the service.
        assert refused <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert accepted
        everything = pb.CreateJobsRequest(jobs=jobs, instance="gateway-1")
        again = await ledger.CreateJobs(everything, timeout=20, wait_for_ready=True)
        existing = {each.job_id for each in again.results if each.existing}
        assert accepted <= existing
        assert len({each.job_id for each in again.results}) == 200
