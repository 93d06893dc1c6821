"""Agents among the real services, killed and frozen while they work."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from typing import Any

import orjson
import pytest
from aiohttp import web

from workmesh.common.v1.job_pb2 import JobState, Lane, RetryPolicy
from workmesh.ids import uuid7
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.ledger.v1.ledger_read_service_pb2 import (
    GetJobHistoryRequest,
    GetJobsRequest,
    GetStatesRequest,
    StateRef,
)
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2 import (
    CancelJob,
    CancelJobsRequest,
    CreateJobsRequest,
    NewJob,
)
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack
from workmesh.rpc.client import open_channel

pytestmark = pytest.mark.timeout(180)

SERVICES = ("postgres", "nats", "valkey", "ledger", "toolhub", "scheduler", "agent")
OPERATION = "{method: POST, path: /%s, effect: %s}"
TERMINAL = {
    JobState.JOB_STATE_SUCCEEDED,
    JobState.JOB_STATE_FAILED,
    JobState.JOB_STATE_CANCELLED,
    JobState.JOB_STATE_DEAD_LETTERED,
}


class Port:
    """An external system: deduplicates on the idempotency key, counts requests and effects."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.bodies: dict[str, bytes] = {}
        self.differing: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        body = await request.read()
        self.requests[request.match_info["what"], key] += 1
        if self.bodies.setdefault(key, body) != body:
            self.differing.append(key)
        await asyncio.sleep(random.expovariate(20))
        return web.json_response({"key": key})


@pytest.fixture(scope="module")
def address() -> str:
    """Where the external system is found, while a test serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host, number = probe.getsockname()
    return f"{host}:{number}"


@pytest.fixture
async def port(address: str) -> AsyncIterator[Port]:
    system = Port()
    app = web.Application()
    app.router.add_post("/{what}", system.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    host, _, number = address.partition(":")
    await web.TCPSite(runner, host, int(number)).start()
    yield system
    await runner.cleanup()


@pytest.fixture(scope="module")
def stack(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The services on the path of a job, without edge and gateway."""
    effects = {"reserve": "idempotent", "pilot": "idempotent", "pay": "unsafe", "stamp": "idempotent"}
    operations = "\n".join(f"      {name}: {OPERATION % (name, effect)}" for name, effect in effects.items())
    head = f"integrations:\n  - name: port\n    kind: http\n    address: http://{address}\n    operations:\n"
    integrations = tmp_path_factory.mktemp("toolhub") / "integrations.yaml"
    integrations.write_text(head + operations + "\n")
    options = StackOptions(
        agents=2,
        slots=16,
        lease_seconds=3.0,
        ack_wait_seconds=6.0,
        handlers=("tests.integration.agent.handlers",),
        integrations=integrations,
        environment={"agent": {"WORKMESH_AGENT_GRACE_SECONDS": "1"}},
    )
    stack = Stack(options=options, only=SERVICES)
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


class Ledger:
    """The ledger as these tests ask it."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self.write = LedgerWriteServiceStub(self._channel)
        self.read = LedgerReadServiceStub(self._channel)

    async def create(self, agent: str, inputs: list[dict[str, Any]]) -> list[str]:
        jobs = [
            NewJob(
                job_id=uuid7(),
                client_id="acme",
                request_id=uuid7(),
                request_digest=hashlib.sha256(orjson.dumps(value)).digest(),
                agent=agent,
                version=1,
                pool="default",
                lane=Lane.LANE_STANDARD,
                fairness_key="acme",
                input=orjson.dumps(value),
                retry_policy=_policy(),
            )
            for value in inputs
        ]
        response = await self.write.CreateJobs(CreateJobsRequest(jobs=jobs, instance="test"), timeout=10)
        assert not any(result.status.code for result in response.results)
        return [job.job_id for job in jobs]

    async def jobs(self, job_ids: list[str]) -> list[JobRecord]:
        request = GetJobsRequest(job_ids=job_ids, with_output=True)
        return list((await self.read.GetJobs(request, timeout=10)).jobs)

    async def ended(self, job_ids: list[str], *, least: int | None = None) -> list[JobRecord]:
        """Wait until that many jobs have ended, by default all."""
        return await self.reached(job_ids, TERMINAL, least=least)

    async def reached(
        self, job_ids: list[str], states: Collection[JobState.ValueType], *, least: int | None = None
    ) -> list[JobRecord]:
        """Wait until that many jobs are in one of the states, by default all."""
        while True:
            jobs = [job for job in await self.jobs(job_ids) if job.state in states]
            if len(jobs) >= (len(job_ids) if least is None else least):
                return jobs
            await asyncio.sleep(0.1)

    async def event_types(self, job_id: str) -> list[str]:
        history = await self.read.GetJobHistory(GetJobHistoryRequest(job_id=job_id), timeout=10)
        return [each.event.WhichOneof("payload") or "" for each in history.events]

    async def close(self) -> None:
        await self._channel.close()


def _policy() -> RetryPolicy:
    policy = RetryPolicy(max_attempts=10, multiplier=2.0)
    policy.initial_delay.FromMilliseconds(50)
    policy.max_delay.FromMilliseconds(500)
    return policy


@pytest.fixture
async def ledger(stack: Stack) -> AsyncIterator[Ledger]:
    ledger = Ledger(stack.ledger_address)
    yield ledger
    await ledger.close()


async def test_kills_and_freezes_leave_one_outcome_and_one_effect_a_step(
    stack: Stack, ledger: Ledger, port: Port
) -> None:
    count = 160
    job_ids = await ledger.create("voyage", [{"number": number} for number in range(count)])
    await ledger.ended(job_ids, least=count // 8)
    stack.pause("agent-2")
    stack.kill("agent-1")
    await stack.wait_ready("agent-1")
    await ledger.ended(job_ids, least=count // 4)
    stack.kill("agent-1")
    # Longer than lease and clock allowance: its jobs have been granted to the other by now.
    await asyncio.sleep(4.5)
    stack.resume("agent-2")
    jobs = await ledger.ended(job_ids)
    assert Counter(job.state for job in jobs) == {JobState.JOB_STATE_SUCCEEDED: count}
    assert {orjson.loads(job.output)["number"] for job in jobs} == {2 * number for number in range(count)}
    assert sum(job.epoch > 1 for job in jobs) >= 8, "the kills hit nothing"

    keys = Counter(what for what, _ in port.requests)
    assert keys == {"reserve": count, "pilot": count, "pay": count, "stamp": count}
    assert port.differing == []
    assert [key for (what, key), times in port.requests.items() if what == "pay" and times > 1] == []
    refs = [StateRef(client_id="acme", collection="voyages", key="count")]
    (document,) = (await ledger.read.GetStates(GetStatesRequest(refs=refs), timeout=10)).documents
    assert (document.body, document.version) == (b"160", count)
    for job in jobs:
        types = Counter(await ledger.event_types(job.job_id))
        assert types["job_succeeded"] == 1
        assert types["attempt_begun"] == job.epoch


async def test_a_running_job_is_cancelled_by_its_instance(stack: Stack, ledger: Ledger) -> None:
    (job_id,) = await ledger.create("endless", [{}])
    await ledger.reached([job_id], {JobState.JOB_STATE_RUNNING})
    request = CancelJobsRequest(
        jobs=[CancelJob(job_id=job_id, client_id="acme", reason="enough")],
        actor=Actor(kind=Actor.KIND_CLIENT, id="acme", instance="test"),
    )
    response = await ledger.write.CancelJobs(request, timeout=10)
    assert response.results[0].state == JobState.JOB_STATE_RUNNING
    (job,) = await ledger.ended([job_id])
    assert job.state == JobState.JOB_STATE_CANCELLED
    assert job.epoch == 1


async def test_a_stopped_instance_hands_its_jobs_to_the_others(stack: Stack, ledger: Ledger) -> None:
    await stack.stop_process("agent-2")
    (job_id,) = await ledger.create("endless", [{"once": True}])
    await ledger.reached([job_id], {JobState.JOB_STATE_RUNNING})
    await stack.start_process("agent-2")
    await stack.stop_process("agent-1")
    (job,) = await ledger.ended([job_id])
    assert job.state == JobState.JOB_STATE_SUCCEEDED
    assert (job.epoch, job.attempt) == (2, 1), "the returned attempt is not spent"
