"""Unsafe effects against the ledger itself: its tokens, epochs, claims and settlements."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from nacl.signing import VerifyKey

from tests.integration.toolhub.external_system import ExternalSystem, answer, held, reset, status
from tests.integration.toolhub.hub import Conversation, Hub, error_of, running_hub
from workmesh import errors, keys
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_STANDARD, RetryPolicy
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Actor
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack
from workmesh.rpc.client import open_channel
from workmesh.toolhub.v1.tool_service_pb2 import ToolCall

YAML = """
integrations:
  - name: erp
    kind: http
    address: ${URL}
    timeout: {try: 1s, total: 2s}
    retry: {max_tries: 2, initial_delay: 5ms, max_delay: 20ms}
    settle_delay: 50ms
    operations:
      get_order: {method: GET, path: "/orders/{reference}", effect: read}
      post_order:
        {method: POST, path: /orders, effect: unsafe, read_back: {operation: get_order, authoritative: true}}
      bare: {method: POST, path: /orders, effect: unsafe}
"""
AGENT = "toolhub-test"
CALL_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Attempt:
    """A granted attempt."""

    job_id: str
    epoch: int
    token: JobToken

    def ask(self, tool: str, reference: str = "R1", step: str = "1") -> ToolCall:
        return ToolCall(
            token_id=self.token.token_id,
            job_id=self.job_id,
            epoch=self.epoch,
            step=step,
            tool=tool,
            arguments=orjson.dumps({"reference": reference}),
        )


class Ledger:
    """What an agent asks of the ledger."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = open_channel(address)
        self._writes: Any = LedgerWriteServiceStub(self.channel)

    async def create(self, count: int = 1) -> list[str]:
        """Create jobs of an agent that may call all of erp."""
        definition = AgentDefinition(
            agent=AGENT, code=CodeHandler(handler=AGENT), pool="default", lane=LANE_STANDARD, tools=["erp.*"]
        )
        actor = Actor(kind=Actor.KIND_SERVICE, id="agent")
        applied = await self._writes.ApplyDefinitions(
            pb.ApplyDefinitionsRequest(definitions=[definition], actor=actor), timeout=CALL_SECONDS
        )
        version = applied.results[0].definition.version
        jobs = [self._new_job(version) for _ in range(count)]
        request = pb.CreateJobsRequest(jobs=jobs, instance="tester")
        answered = await self._writes.CreateJobs(request, timeout=CALL_SECONDS)
        assert all(errors.is_ok(each.status) for each in answered.results)
        return [job.job_id for job in jobs]

    async def begin(self, job_ids: list[str], dispatch: int = 1) -> list[Attempt]:
        """Begin an attempt of each job."""
        offers = [pb.BeginAttempt(job_id=each, dispatch=dispatch, lease_id=uuid7()) for each in job_ids]
        request = pb.BeginAttemptsRequest(attempts=offers, instance="tester")
        answered = await self._writes.BeginAttempts(request, timeout=CALL_SECONDS)
        grants = [each.grant for each in answered.results]
        assert all(grant.job.epoch for grant in grants), answered
        return [
            Attempt(job_id, grant.job.epoch, answered.token)
            for job_id, grant in zip(job_ids, grants, strict=True)
        ]

    async def hand_back(self, attempt: Attempt) -> None:
        """End an attempt unspent, so that the next may begin."""
        ref = pb.AttemptRef(job_id=attempt.job_id, epoch=attempt.epoch)
        failed = pb.FailAttempt(attempt=ref, verdict=pb.FailAttempt.VERDICT_RETURN)
        request = pb.FailAttemptsRequest(attempts=[failed], instance="tester")
        answered = await self._writes.FailAttempts(request, timeout=CALL_SECONDS)
        assert errors.is_ok(answered.results[0].status)

    def _new_job(self, version: int) -> pb.NewJob:
        policy = RetryPolicy(max_attempts=5, multiplier=2.0)
        policy.initial_delay.FromMilliseconds(10)
        policy.max_delay.FromSeconds(1)
        return pb.NewJob(
            job_id=uuid7(),
            client_id="tester",
            request_id=uuid7(),
            request_digest=os.urandom(32),
            agent=AGENT,
            version=version,
            pool="default",
            lane=LANE_STANDARD,
            fairness_key="tester",
            input=b"{}",
            retry_policy=policy,
        )


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """PostgreSQL and the ledger, nothing else."""
    stack = Stack(only=("postgres", "ledger"), options=StackOptions(lease_seconds=60.0))
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


@pytest.fixture
async def real_ledger(stack: Stack) -> AsyncIterator[Ledger]:
    ledger = Ledger(stack.ledger_address)
    yield ledger
    await ledger.channel.close()


@pytest.fixture
async def hub(stack: Stack, system: ExternalSystem) -> AsyncIterator[Hub]:
    public = VerifyKey(keys.load_public_key(stack.keys_directory, keys.TOKENS))
    async with running_hub(
        YAML, {"URL": system.url}, ledger_address=stack.ledger_address, verify_key=public
    ) as running:
        yield running


async def outcome(hub: Hub, attempt: Attempt, call: ToolCall) -> Any:
    stream = Conversation(hub)
    (future,) = await stream.send([call], [attempt.token])
    result = await future
    await stream.finish()
    return result


async def test_a_successor_gets_the_result_of_the_effect_its_predecessor_had(
    hub: Hub, system: ExternalSystem, real_ledger: Ledger
) -> None:
    system.plan = [answer({"order": 7})]
    job_ids = await real_ledger.create()
    (first,) = await real_ledger.begin(job_ids)
    assert (await outcome(hub, first, first.ask("erp.bare"))).result == b'{"order":7}'
    await real_ledger.hand_back(first)
    (second,) = await real_ledger.begin(job_ids, dispatch=2)
    assert (await outcome(hub, second, second.ask("erp.bare"))).result == b'{"order":7}'
    mismatch = error_of(await outcome(hub, second, second.ask("erp.bare", "R2")))
    assert mismatch.reason == "REPLAY_MISMATCH"
    assert len(system.seen) == 1


async def test_a_superseded_attempt_cannot_claim(
    hub: Hub, system: ExternalSystem, real_ledger: Ledger
) -> None:
    job_ids = await real_ledger.create()
    (first,) = await real_ledger.begin(job_ids)
    await real_ledger.hand_back(first)
    await real_ledger.begin(job_ids, dispatch=2)
    error = error_of(await outcome(hub, first, first.ask("erp.bare")))
    assert error.reason == "STALE_EPOCH"
    assert system.seen == []


async def test_the_ledgers_token_allows_what_the_definition_allows(hub: Hub, real_ledger: Ledger) -> None:
    (attempt,) = await real_ledger.begin(await real_ledger.create())
    error = error_of(await outcome(hub, attempt, attempt.ask("customs.screen")))
    assert error.reason == "TOOL_NOT_ALLOWED"


async def test_a_lost_answer_is_reconciled_by_the_read_back(
    hub: Hub, system: ExternalSystem, real_ledger: Ledger
) -> None:
    system.plan = [reset(), status(404), reset(), answer({"order": 8})]
    job_ids = await real_ledger.create()
    (attempt,) = await real_ledger.begin(job_ids)
    assert (await outcome(hub, attempt, attempt.ask("erp.post_order"))).result == b'{"order":8}'
    assert [each.method for each in system.seen] == ["POST", "GET", "POST", "GET"]
    assert (await outcome(hub, attempt, attempt.ask("erp.post_order"))).result == b'{"order":8}'
    assert len(system.seen) == 4


async def test_many_effects_at_once_take_place_once_each(
    hub: Hub, system: ExternalSystem, real_ledger: Ledger
) -> None:
    attempts = await real_ledger.begin(await real_ledger.create(100))
    stream = Conversation(hub)
    calls = [attempt.ask("erp.bare", attempt.job_id) for attempt in attempts]
    results = await asyncio.gather(*await stream.send(calls, [attempts[0].token]))
    await stream.finish()
    assert {result.result for result in results} == {b'{"ok":true}'}
    posted = [orjson.loads(each.body)["reference"] for each in system.seen]
    assert sorted(posted) == sorted(attempt.job_id for attempt in attempts)


async def test_a_ledger_that_dies_during_the_call_learns_its_end(
    hub: Hub, system: ExternalSystem, real_ledger: Ledger, stack: Stack
) -> None:
    release = asyncio.Event()
    system.plan = [held(release, answer({"order": 9}))]
    job_ids = await real_ledger.create()
    (attempt,) = await real_ledger.begin(job_ids)
    stream = Conversation(hub)
    (future,) = await stream.send([attempt.ask("erp.bare")], [attempt.token])
    await system.wait_for(1)
    stack.kill("ledger")
    release.set()
    assert (await future).result == b'{"order":9}'
    await stack.wait_ready("ledger")
    (again,) = await stream.send([attempt.ask("erp.bare")])
    assert (await again).result == b'{"order":9}'
    await stream.finish()
    assert len(system.seen) == 1
