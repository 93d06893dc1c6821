"""A world in memory for the engine: a journal, documents and external systems that outlive attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from workmesh.errors import MeshError
from workmesh.ledger.v1.job_pb2 import JobRecord, JournalStep, StateDocument, StateWrite
from workmesh.sdk.attempt import Attempt
from workmesh.sdk.definition import Definition
from workmesh.sdk.errors import AttemptLost
from workmesh.sdk.outcome import Failure

Tool = Callable[[dict[str, Any]], Any]


@dataclass
class World:
    """What survives an attempt: the ledger's part and that of the systems behind the tools."""

    tools: dict[str, Tool] = field(default_factory=dict)
    journal: dict[str, JournalStep] = field(default_factory=dict)
    documents: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    effects: dict[str, tuple[str, bytes, bytes]] = field(default_factory=dict)
    output: Any = None
    commits: int = 0

    def record(self, steps: Sequence[JournalStep]) -> None:
        for step in steps:
            assert step.step not in self.journal, f"step {step.step} was journaled twice"
            self.journal[step.step] = step

    def request(self, step: str, tool: str, arguments: bytes) -> bytes:
        """Answer a request as an external system that deduplicates on the idempotency key."""
        assert step not in self.journal, f"step {step} is journaled and was requested again"
        self.requests.append((step, tool, arguments))
        if step in self.effects:
            known_tool, known_arguments, result = self.effects[step]
            assert (known_tool, known_arguments) == (tool, arguments), f"key {step} was used for another call"
            return result
        result = orjson.dumps(self.tools[tool](orjson.loads(arguments)))
        self.effects[step] = (tool, arguments, result)
        return result

    def write(self, collection: str, key: str, value: Any) -> None:
        version, _ = self.documents.get((collection, key), (0, b""))
        self.documents[collection, key] = (version + 1, orjson.dumps(value))

    def value(self, collection: str, key: str) -> Any:
        return orjson.loads(self.documents[collection, key][1])

    def document(self, collection: str, key: str) -> StateDocument:
        version, body = self.documents.get((collection, key), (0, b""))
        return StateDocument(collection=collection, key=key, version=version, body=body)


class Killed(Exception):
    """The process died where the test wanted it to."""


class MemoryRuntime:
    """Runs one attempt against a world; the process may die before or after each thing it does."""

    def __init__(self, world: World, dies_at: int | None = None) -> None:
        self.world = world
        self.dead: asyncio.Event = asyncio.Event()
        self.moments = 0
        self._dies_at = dies_at

    async def _moment(self) -> None:
        if self.dead.is_set():
            raise AttemptLost("this process is dead")
        self.moments += 1
        if self.moments == self._dies_at:
            self.dead.set()
        await asyncio.sleep(0)
        if self.dead.is_set():
            raise AttemptLost("this process is dead")

    async def call_tool(self, step: str, tool: str, arguments: bytes) -> bytes:
        await self._moment()
        result = self.world.request(step, tool, arguments)
        await self._moment()
        return result

    async def record_steps(self, steps: Sequence[JournalStep]) -> None:
        assert 1 <= len(steps) <= 256
        await self._moment()
        self.world.record(steps)
        await self._moment()

    async def read_state(self, collection: str, key: str) -> StateDocument:
        await self._moment()
        return self.world.document(collection, key)

    async def commit(
        self, output: bytes, steps: Sequence[JournalStep], writes: Sequence[StateWrite]
    ) -> Sequence[StateDocument]:
        await self._moment()
        conflicts = []
        for write in writes:
            now = self.world.document(write.collection, write.key)
            if write.HasField("expected_version") and write.expected_version != now.version:
                conflicts.append(now)
        if conflicts:
            return conflicts
        self.world.record(steps)
        for write in writes:
            self.world.write(write.collection, write.key, orjson.loads(write.body))
        self.world.output = orjson.loads(output)
        self.world.commits += 1
        await self._moment()
        return ()


def definition(function: Callable[[Any], Awaitable[Any]], **options: Any) -> Definition:
    return Definition(name="tested", function=function, **options)


def job(value: Any = None, **fields: Any) -> JobRecord:
    fields = {"job_id": "0199", "client_id": "acme", "agent": "tested", "attempt": 1, **fields}
    return JobRecord(input=orjson.dumps({} if value is None else value), **fields)


def attempt_of(
    world: World, function: Callable[[Any], Awaitable[Any]], value: Any = None, **options: Any
) -> Attempt:
    """Return an attempt that no process death ends."""
    return Attempt(definition(function, **options), job(value), world.journal.values(), MemoryRuntime(world))


async def run(
    world: World,
    function: Callable[[Any], Awaitable[Any]],
    value: Any = None,
    *,
    dies_at: int | None = None,
    **options: Any,
) -> Failure | None:
    """Run one attempt and journal what a failure leaves behind; raise Killed where the process died."""
    runtime = MemoryRuntime(world, dies_at)
    attempt = Attempt(definition(function, **options), job(value), list(world.journal.values()), runtime)
    task = asyncio.create_task(attempt.run())
    death = asyncio.create_task(runtime.dead.wait())
    await asyncio.wait({task, death}, return_when=asyncio.FIRST_COMPLETED)
    if runtime.dead.is_set():
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise Killed
    death.cancel()
    failure = task.result()
    if failure is not None:
        world.record(failure.steps)
    return failure


def refuse(error: MeshError) -> Tool:
    """Return a tool that fails."""

    def tool(_: dict[str, Any]) -> Any:
        raise error

    return tool
