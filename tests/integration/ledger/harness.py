"""A ledger's write side in the test's process, on a real database, called as its clients call it."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self, cast

import asyncpg
import orjson
from google.protobuf.duration_pb2 import Duration
from google.rpc.status_pb2 import Status

from services.ledger.catalog import Catalog
from services.ledger.database import Role, open_pool
from services.ledger.events import service_actor
from services.ledger.items import Item, Outcome
from services.ledger.jobs import Rules
from services.ledger.service import Context, WriteService
from services.ledger.session import Session
from services.ledger.singletons import Singletons
from services.ledger.token_issuer import TokenIssuer
from services.ledger.writer import Writer
from services.ledger.writers import Writers
from tests.integration.ledger.databases import Databases
from workmesh.batching import Batcher
from workmesh.chain import digest, verify_chain
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_STANDARD, RetryPolicy
from workmesh.errors import from_status, to_status, unavailable
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import STEP_KIND_TOOL, Actor, Event
from workmesh.ledger.v1.job_pb2 import JournalStep, StateWrite
from workmesh.tokens import TokenSigner

_numbers = itertools.count(1)

LEASE_SECONDS = 10.0
ALLOWANCE_SECONDS = 1.0
OPERATOR = Actor(kind=Actor.KIND_OPERATOR, id="olga")
SIGNING_KEY = bytes(range(32))
POLICY = RetryPolicy(
    max_attempts=3, initial_delay=Duration(seconds=1), multiplier=2.0, max_delay=Duration(seconds=60)
)


class CarefulWriter(Writer):
    """A writer that takes the careful way with every item."""

    async def write(self, items: Sequence[Item], *, plain: bool) -> list[Outcome]:
        return await super().write(items, plain=False)


class Blocks:
    """The blocks that a ledger told its listener of, in the order told."""

    def __init__(self) -> None:
        self.seen: list[Block] = []

    def committed(self, block: Block) -> None:
        self.seen.append(block)


class Ledger:
    """Writers, batcher and service on one database."""

    def __init__(
        self,
        databases: Databases,
        database: str,
        *,
        name: str = "ledger-1",
        writers: int = 2,
        patience: float = 5.0,
        lease: float = LEASE_SECONDS,
        make_writer: Callable[..., Writer] = Writer,
    ) -> None:
        self.databases = databases
        self.database = database
        self.blocks = Blocks()
        url = databases.url(database)
        rules = Rules(
            lease_micros=round(lease * 1e6),
            allowance_micros=round(ALLOWANCE_SECONDS * 1e6),
            ledger=service_actor("ledger", name),
            draw=random.random,
        )
        connect = partial(Session.open, url, name)
        self.all_writers = [make_writer(connect, rules, self.blocks) for _ in range(writers)]
        self.writers = Writers(self.all_writers, patience=patience)
        self.batcher: Batcher[Item, Outcome] = Batcher(
            self.writers.write, name="writes", max_items=256, flights=writers
        )
        self.client = f"client-{next(_numbers)}"
        self._url = url
        self._name = name
        self._rules = rules

    async def __aenter__(self) -> Self:
        self._pool = await open_pool(self._url, Role.WRITER, self._name, 4)
        self._superuser = await asyncpg.connect(self.databases.url(self.database, "postgres"))
        catalog = Catalog(self._pool)
        self.service = WriteService(
            self.batcher,
            catalog,
            TokenIssuer(TokenSigner(SIGNING_KEY), catalog),
            Singletons(self._pool),
            self._rules.lease_micros,
        )
        await self.writers.start(lambda: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.batcher.close()
        await self.writers.close()
        self._pool.terminate()
        self._superuser.terminate()

    async def call(self, method: str, **fields: Any) -> Any:
        """Call an RPC with the fields of its request; raises MeshError as the caller would get it."""
        request = getattr(pb, f"{method}Request")(**fields)
        return await getattr(self.service, method)(request, cast(Context, None))

    # The usual calls

    async def define(self, agent: str = "booking", **fields: Any) -> pb.ApplyDefinitionResult:
        """Apply a definition."""
        definition = AgentDefinition(agent=agent, code=CodeHandler(handler=agent), **fields)
        response = await self.call("ApplyDefinitions", definitions=[definition], actor=OPERATOR)
        return cast(pb.ApplyDefinitionResult, response.results[0])

    async def create(self, *jobs: pb.NewJob) -> list[pb.CreateJobResult]:
        """Accept jobs."""
        response = await self.call("CreateJobs", jobs=jobs, instance="gateway-1")
        return list(response.results)

    async def job(self, **fields: Any) -> str:
        """Accept one job and return its id."""
        result = (await self.create(new_job(**fields)))[0]
        raise_status(result.status)
        return result.job_id

    async def begin(
        self, job_id: str, *, dispatch: int = 1, lease: str = "", instance: str = "agent-1"
    ) -> pb.BeginAttemptResult:
        """Take up one offer."""
        offer = pb.BeginAttempt(job_id=job_id, dispatch=dispatch, lease_id=lease or uuid7())
        response = await self.call("BeginAttempts", attempts=[offer], instance=instance)
        return cast(pb.BeginAttemptResult, response.results[0])

    async def running(self, **fields: Any) -> pb.AttemptRef:
        """Accept a job, begin it, and return its attempt."""
        job_id = await self.job(**fields)
        result = await self.begin(job_id)
        assert result.HasField("grant"), result
        return pb.AttemptRef(job_id=job_id, epoch=result.grant.job.epoch)

    async def commit(self, attempt: pb.AttemptRef, **fields: Any) -> pb.CommitAttemptResult:
        """Commit one attempt."""
        each = pb.CommitAttempt(attempt=attempt, **{"output": b'{"ok":true}', **fields})
        response = await self.call("CommitAttempts", attempts=[each], instance="agent-1")
        return cast(pb.CommitAttemptResult, response.results[0])

    async def fail(
        self, attempt: pb.AttemptRef, verdict: int = pb.FailAttempt.VERDICT_RETRY, **fields: Any
    ) -> pb.FailAttemptResult:
        """Fail one attempt."""
        each = pb.FailAttempt(attempt=attempt, verdict=cast(Any, verdict), **{"error": error(), **fields})
        response = await self.call("FailAttempts", attempts=[each], instance="agent-1")
        return cast(pb.FailAttemptResult, response.results[0])

    async def cancel(self, job_id: str, **fields: Any) -> pb.CancelJobResult:
        """Cancel one job."""
        each = pb.CancelJob(job_id=job_id, **fields)
        response = await self.call("CancelJobs", jobs=[each], actor=OPERATOR)
        return cast(pb.CancelJobResult, response.results[0])

    async def record(self, attempt: pb.AttemptRef, *steps: JournalStep) -> pb.ItemResult:
        """Journal steps."""
        each = pb.RecordSteps(attempt=attempt, steps=steps)
        response = await self.call("RecordSteps", attempts=[each], instance="agent-1")
        return cast(pb.ItemResult, response.results[0])

    # Looking behind it

    async def sql(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement as the superuser."""
        return await self._superuser.fetch(statement, *arguments)

    async def row(self, job_id: str) -> Mapping[str, Any]:
        """Return a job's row."""
        rows = await self.sql("select j.* from jobs j where j.job_id = $1", job_id)
        return dict(rows[0])

    async def age(self, job_id: str, seconds: float) -> None:
        """Let time go by for a job: its lease, start and deadline come nearer."""
        earlier = ", ".join(
            f"{column} = {column} - case {column} when 0 then 0 else $2::bigint end"
            for column in ("lease_expire_micros", "run_time_micros", "deadline_micros")
        )
        await self.sql(f"update jobs set {earlier} where job_id = $1", job_id, round(seconds * 1e6))  # noqa: S608

    async def history(self, job_id: str) -> list[Event]:
        """Return a job's events in order."""
        rows = await self.sql("select body from events where job_id = $1 order by seq", job_id)
        return [Event.FromString(row["body"]) for row in rows]

    async def types(self, job_id: str) -> list[str]:
        """Return the types of a job's events in order."""
        return [str(event.WhichOneof("payload")) for event in await self.history(job_id)]

    async def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        tables = await self.sql("select relname from pg_stat_user_tables order by relname")
        names = [row[0] for row in tables]
        return {name: (await self.sql(f'select count(*) from "{name}"'))[0][0] for name in names}  # noqa: S608

    async def verify(self) -> int:
        """Check every chain and every job's history against the log; return the number of blocks."""
        blocks = await self._stored_blocks()
        chains: dict[int, list[Block]] = {}
        for block in blocks:
            chains.setdefault(block.chain, []).append(block)
        for chain in chains.values():
            assert verify_chain(chain) is None
        await self._verify_histories()
        return len(blocks)

    async def _stored_blocks(self) -> list[Block]:
        rows = await self.sql(
            "select b.*, array(select e.body from events e where e.chain = b.chain and e.height = b.height"
            " order by e.index) as bodies from blocks b order by b.chain, b.height"
        )
        names = (
            "chain",
            "height",
            "timeline",
            "prev_hash",
            "merkle_root",
            "hash",
            "time_micros",
            "event_count",
        )
        return [Block(**{name: row[name] for name in names}, events=row["bodies"]) for row in rows]

    async def _verify_histories(self) -> None:
        rows = await self.sql("select job_id::text, seq, type, client_id, time_micros, body from events")
        last: dict[str, list[int]] = {}
        for row in rows:
            event = Event.FromString(row["body"])
            stored = (row["job_id"] or "", row["seq"], row["type"], row["client_id"], row["time_micros"])
            said = (event.job_id, event.seq, event.WhichOneof("payload"), event.client_id, event.time_micros)
            assert stored == said
            if event.job_id:
                last.setdefault(event.job_id, []).append(event.seq)
        for seqs in last.values():
            assert sorted(seqs) == list(range(1, len(seqs) + 1))
        jobs = await self.sql("select job_id::text, seq from jobs")
        assert {row[0]: row[1] for row in jobs} == {job_id: max(seqs) for job_id, seqs in last.items()}


def new_job(**fields: Any) -> pb.NewJob:
    """Return a well-formed job; fields replace what it has."""
    body = fields.get("input", b'{"container":"MSKU1234565"}')
    return pb.NewJob(
        **{
            "job_id": uuid7(),
            "client_id": "acme",
            "request_id": uuid7(),
            "request_digest": digest(body),
            "agent": "booking",
            "version": 1,
            "pool": "default",
            "lane": LANE_STANDARD,
            "fairness_key": "acme",
            "input": body,
            "retry_policy": POLICY,
            **fields,
        }
    )


def step(name: str = "1", result: object = None, **fields: Any) -> JournalStep:
    """Return a finished step."""
    return JournalStep(
        **{
            "step": name,
            "kind": STEP_KIND_TOOL,
            "name": "erp.post_order",
            "arguments_digest": digest(b"{}"),
            "result": orjson.dumps(result),
            "start_time_micros": 1,
            "end_time_micros": 2,
            **fields,
        }
    )


def state(key: str, body: object, expected: int | None = None, collection: str = "shipments") -> StateWrite:
    """Return a write of a document."""
    return StateWrite(collection=collection, key=key, body=orjson.dumps(body), expected_version=expected)


def error(reason: str = "INTEGRATION_FAILED", message: str = "carrier 17 is down") -> Status:
    """Return a failure with its reason."""
    return to_status(unavailable(reason, message))


def reason(status: Status) -> str:
    """Return the reason of a status; empty if it is OK."""
    return from_status(status).reason if status.code else ""


def raise_status(status: Status) -> None:
    """Raise what a status says unless it is OK."""
    if status.code:
        raise from_status(status)


async def until(condition: Callable[[], bool | Awaitable[object]], seconds: float = 20.0) -> None:
    """Return once a condition holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        for _ in itertools.count():
            held = condition()
            if await held if isinstance(held, Awaitable) else held:
                return
            await asyncio.sleep(0.01)
