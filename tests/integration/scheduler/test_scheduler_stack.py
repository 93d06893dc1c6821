"""The scheduler's process with the real ledger, PostgreSQL and NATS, and what kill -9 does to them."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import TypeVar

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.integration.scheduler.conftest import until
from tests.integration.scheduler.worker import Worker
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import JOB_STATE_SUCCEEDED, LANE_BATCH, LANE_CRITICAL, Lane, RetryPolicy
from workmesh.ids import uuid7
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.ledger_read_service_pb2 import CountJobsRequest, GetJobsRequest
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2 import ApplyDefinitionsRequest, CreateJobsRequest, NewJob
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack
from workmesh.rpc.client import open_channel

OPTIONS = StackOptions(lease_seconds=2.0, ack_wait_seconds=3.0, log_level="warning")
CLIENT = "tester"
Answer = TypeVar("Answer")


class Mesh:
    """A stack without agents, and what the tests do with its ledger."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._channel = open_channel(stack.ledger_address)
        self.writes = LedgerWriteServiceStub(self._channel)
        self.reads = LedgerReadServiceStub(self._channel)

    async def define(self) -> None:
        definition = AgentDefinition(agent="worker", pool="default", code=CodeHandler(handler="worker"))
        actor = Actor(kind=Actor.KIND_SERVICE, id="tests", instance="tests")
        request = ApplyDefinitionsRequest(definitions=[definition], actor=actor)
        answer = await self.writes.ApplyDefinitions(request, timeout=10)
        assert answer.results[0].definition.version == 1

    async def create(self, count: int, lane: Lane.ValueType = LANE_BATCH, *, delay: float = 0.0) -> list[str]:
        """Create jobs in batches of 200 and return their ids."""
        made: list[str] = []
        run_time = round((time.time() + delay) * 1e6) if delay else 0
        while len(made) < count:
            jobs = [_new_job(lane, run_time) for _ in range(min(200, count - len(made)))]
            request = CreateJobsRequest(jobs=jobs, instance="tests")
            answer = await steadily(partial(self.writes.CreateJobs, request, timeout=10))
            assert all(result.status.code == 0 for result in answer.results)
            made += [result.job_id for result in answer.results]
        return made

    async def live(self) -> int:
        answer = await steadily(lambda: self.reads.CountJobs(CountJobsRequest(), timeout=10))
        return sum(each.count for each in answer.counts)

    async def succeeded(self, job_ids: list[str]) -> int:
        count = 0
        for start in range(0, len(job_ids), 500):
            request = GetJobsRequest(job_ids=job_ids[start : start + 500])
            jobs = (await self.reads.GetJobs(request, timeout=10)).jobs
            count += sum(job.state == JOB_STATE_SUCCEEDED for job in jobs)
        return count

    async def close(self) -> None:
        await self._channel.close()


async def steadily(call: Callable[[], Awaitable[Answer]], seconds: float = 20.0) -> Answer:
    """Call until the ledger is there: what is repeated is idempotent."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


def _new_job(lane: Lane.ValueType, run_time: int) -> NewJob:
    policy = RetryPolicy(
        max_attempts=10,
        initial_delay=Duration(seconds=1),
        multiplier=2.0,
        max_delay=Duration(seconds=60),
    )
    job_id = uuid7()
    return NewJob(
        job_id=job_id,
        client_id=CLIENT,
        request_id=job_id,
        request_digest=b"0" * 32,
        agent="worker",
        version=1,
        pool="default",
        lane=lane,
        fairness_key=CLIENT,
        input=b"{}",
        run_time_micros=run_time,
        retry_policy=policy,
    )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(options=OPTIONS, only=("postgres", "nats", "ledger", "scheduler"))
    asyncio.run(running.start())
    try:
        yield running
    finally:
        asyncio.run(running.stop())


@pytest.fixture
async def mesh(stack: Stack) -> AsyncIterator[Mesh]:
    mesh = Mesh(stack)
    await mesh.define()
    yield mesh
    await mesh.close()


@pytest.fixture
async def workers(mesh: Mesh) -> AsyncIterator[list[Worker]]:
    made = [
        Worker(f"worker-{number}", mesh.stack.ledger_address, mesh.stack.scheduler_address)
        for number in range(2)
    ]
    for worker in made:
        worker.start()
    yield made
    for worker in made:
        await worker.close()


async def ends_well(mesh: Mesh, workers: list[Worker], job_ids: list[str], seconds: float = 60.0) -> None:
    """Every job succeeds, committed once."""

    async def none_live() -> bool:
        return await mesh.live() == 0

    await until(none_live, seconds)
    assert await mesh.succeeded(job_ids) == len(job_ids)
    commits = sum((worker.committed for worker in workers), start=type(workers[0].committed)())
    assert all(commits[job_id] <= 1 for job_id in job_ids)


@pytest.mark.timeout(180)
async def test_two_thousand_jobs_outlive_kills_of_everything_beneath_them(
    mesh: Mesh, workers: list[Worker]
) -> None:
    jobs = await mesh.create(1_000)
    jobs += await mesh.create(200, delay=2.0)
    mesh.stack.kill("scheduler")
    jobs += await mesh.create(200, LANE_CRITICAL)
    await mesh.stack.wait_ready("scheduler")
    mesh.stack.kill("nats")
    jobs += await mesh.create(200)
    await mesh.stack.wait_ready("nats")
    mesh.stack.kill("ledger")
    await mesh.stack.wait_ready("ledger")
    jobs += await mesh.create(200)
    shutil.rmtree(mesh.stack.data_directory("nats") / "jetstream")
    jobs += await mesh.create(200)
    await ends_well(mesh, workers, jobs)


@pytest.mark.timeout(120)
async def test_a_directory_wiped_while_nats_is_down_is_filled_again(
    mesh: Mesh, workers: list[Worker]
) -> None:
    jobs = await mesh.create(400)
    jobs += await mesh.create(100, delay=2.0)
    await mesh.stack.stop_process("nats")
    shutil.rmtree(mesh.stack.data_directory("nats") / "jetstream", ignore_errors=True)
    jobs += await mesh.create(100)
    await mesh.stack.start_process("nats")
    await ends_well(mesh, workers, jobs)


@pytest.mark.timeout(120)
async def test_a_frozen_scheduler_is_harmless_when_it_wakes(mesh: Mesh, workers: list[Worker]) -> None:
    jobs = await mesh.create(300)
    mesh.stack.pause("scheduler")
    jobs += await mesh.create(100)
    await asyncio.sleep(5.0)
    mesh.stack.resume("scheduler")
    await ends_well(mesh, workers, jobs)
