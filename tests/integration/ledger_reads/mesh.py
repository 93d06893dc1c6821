"""A ledger's writers at work on a database, and what reads behind them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import asyncpg

from services.ledger.block_listener import BlockListener
from services.ledger.block_reader import BlockReader
from services.ledger.database import Role, connect, open_pool
from services.ledger.feed import Feed
from services.ledger.follower import FeedPolicy
from services.ledger.items import (
    Apply,
    Begin,
    Cancel,
    Claim,
    Commit,
    Create,
    Fail,
    Granted,
    Item,
    Outcome,
    Record,
    Settle,
)
from services.ledger.jobs import Rules
from services.ledger.read_pool import ReadPool
from services.ledger.session import Session
from services.ledger.writer import Writer
from services.ledger.writers import Writers
from workmesh.chain import digest
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import Lane, RetryPolicy
from workmesh.errors import MeshError, failed_precondition, to_status
from workmesh.ids import uuid7
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import STEP_KIND_TOOL, Actor
from workmesh.ledger.v1.job_pb2 import JournalStep, StateWrite
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt, NewJob

ALLOWANCE_MICROS = 1_000_000
LEASE_MICROS = 10_000_000
INSTANCE = "agent-1"

Found = TypeVar("Found")


class Blocks:
    """Collects the blocks that writers commit and passes them on."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.listeners: list[Callable[[Block], None]] = []
        self._more = asyncio.Event()

    async def reached(self, count: int) -> None:
        """Return once there are so many."""
        while len(self.all) < count:
            self._more.clear()
            await self._more.wait()

    def committed(self, block: Block) -> None:
        self.all.append(block)
        self._more.set()
        for listener in self.listeners:
            listener(block)


class Ledger:
    """Writers of one process and its reading pools."""

    def __init__(self, url: str, *, writers: int = 2, name: str = "ledger-1") -> None:
        self.url = url
        self.name = name
        self.blocks = Blocks()
        self._count = writers
        self._closers: list[Callable[[], Any]] = []

    async def __aenter__(self) -> Self:
        actor = Actor(kind=Actor.KIND_SERVICE, id="ledger", instance=self.name)
        rules = Rules(LEASE_MICROS, ALLOWANCE_MICROS, actor, lambda: 0.5)
        self.writers = Writers(
            [Writer(self._session, rules, self.blocks) for _ in range(self._count)], patience=5.0
        )
        await self.writers.start(lambda: None)
        self._closers.append(self.writers.close)
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._closers:
            await self._closers.pop()()

    async def _session(self) -> Session:
        return await Session.open(self.url, self.name)

    async def pool(self, role: Role, size: int = 4) -> ReadPool:
        pool = await open_pool(self.url, role, self.name, size)
        self._closers.append(pool.close)
        return ReadPool(pool)

    async def feed(
        self, policy: FeedPolicy | None = None, *, sweep: float = 1.0, own_blocks: bool = True
    ) -> Feed:
        """A feed on this database; it hears of this process's blocks directly if they are its own."""

        async def listening() -> asyncpg.Connection:
            return await connect(self.url, Role.FEED, f"{self.name}-listener")

        reader = BlockReader((await self.pool(Role.FEED)).fetch)
        instance = self.name if own_blocks else ""
        feed = Feed(reader, BlockListener(listening, sweep=sweep), policy or FeedPolicy(), instance=instance)
        if own_blocks:
            self.blocks.listeners.append(feed.committed)
        await feed.start()
        self._closers.append(feed.close)
        return feed

    async def write(self, *items: Item) -> list[Outcome]:
        """Write items in one transaction; what is refused raises."""
        outcomes = await self.writers.write(items)
        for outcome in outcomes:
            if isinstance(outcome, MeshError):
                raise outcome
        return outcomes

    async def create(self, count: int = 1, **fields: Any) -> list[str]:
        """Create jobs in one block and return their ids."""
        jobs = [new_job(**fields) for _ in range(count)]
        await self.write(*(Create(job, "gateway-1", 1_000) for job in jobs))
        return [job.job_id for job in jobs]

    async def begin(self, *job_ids: str, dispatch: int = 1) -> list[int]:
        """Begin attempts and return their epochs."""
        lease = [Begin(job_id, dispatch, str(uuid.uuid4()), INSTANCE) for job_id in job_ids]
        return [one(Granted, outcome).job.epoch for outcome in await self.write(*lease)]

    async def record(self, job_id: str, epoch: int, *steps: JournalStep) -> None:
        await self.write(Record(job_id, epoch, steps, INSTANCE, 1_000))

    async def commit(
        self,
        job_id: str,
        epoch: int,
        output: bytes = b'{"done":true}',
        steps: Sequence[JournalStep] = (),
        writes: Sequence[StateWrite] = (),
    ) -> None:
        await self.write(Commit(job_id, epoch, output, steps, writes, INSTANCE, 1_000))

    async def fail(self, job_id: str, epoch: int, verdict: FailAttempt.Verdict.ValueType) -> None:
        error = to_status(failed_precondition("BUSINESS_FAILURE", "it went wrong"))
        await self.write(Fail(job_id, epoch, verdict, error, 0, (), INSTANCE, 1_000))

    async def cancel(self, job_id: str) -> None:
        actor = Actor(kind=Actor.KIND_CLIENT, id="client-a")
        await self.write(Cancel(job_id, "", "no longer wanted", actor))

    async def effect(self, job_id: str, epoch: int, result: bytes) -> None:
        """Claim an unsafe effect and settle it as done."""
        await self.write(Claim(job_id, epoch, "1", "erp.post_order", digest(b"{}"), 1, INSTANCE))
        await self.write(Settle(job_id, 1, "1", True, result, "answer", INSTANCE, 100))

    async def apply(self, agent: str, **fields: Any) -> None:
        definition = AgentDefinition(agent=agent, **fields)
        actor = Actor(kind=Actor.KIND_OPERATOR, id="operator")
        await self.write(Apply(definition, digest(definition.SerializeToString()).hex(), actor, 1_000))

    async def run(self, count: int = 1, **fields: Any) -> list[str]:
        """Create, begin and commit jobs: three blocks."""
        job_ids = await self.create(count, **fields)
        epochs = await self.begin(*job_ids)
        commits = [
            Commit(job_id, epoch, b'{"done":true}', [step("1")], (), INSTANCE, 1_000)
            for job_id, epoch in zip(job_ids, epochs, strict=True)
        ]
        await self.write(*commits)
        return job_ids


def new_job(
    *,
    client_id: str = "client-a",
    agent: str = "booking",
    pool: str = "default",
    lane: Lane.ValueType = Lane.LANE_STANDARD,
    input: bytes = b'{"number":1}',
    run_time_micros: int = 0,
    labels: Mapping[str, str] | None = None,
) -> NewJob:
    policy = RetryPolicy(max_attempts=3, multiplier=2.0)
    policy.initial_delay.FromMilliseconds(1_000)
    policy.max_delay.FromMilliseconds(60_000)
    return NewJob(
        job_id=uuid7(),
        client_id=client_id,
        request_id=str(uuid.uuid4()),
        request_digest=digest(input),
        agent=agent,
        version=1,
        pool=pool,
        lane=lane,
        fairness_key=client_id,
        input=input,
        run_time_micros=run_time_micros,
        retry_policy=policy,
        labels=labels,
        traceparent=f"00-{'1' * 32}-{'2' * 16}-01",
    )


def step(path: str, result: bytes = b'{"rate":7}') -> JournalStep:
    return JournalStep(
        step=path,
        kind=STEP_KIND_TOOL,
        name="carrier.rate",
        arguments_digest=digest(path.encode()),
        result=result,
        start_time_micros=1,
        end_time_micros=2,
    )


def one(kind: type[Found], value: object) -> Found:
    assert isinstance(value, kind), value
    return value
