"""A block in the making: what one transaction adds to the log and to the insert-only tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.ledger.arrays import blobs, encode, ids, numbers, texts
from services.ledger.jobs import Decision, StepRow, VersionRow
from workmesh.chain import block_hash, merkle_root
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import Event


class Statements(Protocol):
    """What runs named statements; asyncpg's records are returned as they are."""

    async def fetch(self, name: str, *arguments: object) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Head:
    """The newest block of a chain that this process owns; height 0 and zeros before the first."""

    chain: int
    timeline: int
    height: int
    hash: bytes


_STEP: Final = (
    *(ids, numbers, numbers, texts, numbers, texts, blobs, blobs),
    *(blobs, blobs, numbers, numbers, numbers),
)
_VERSION: Final = (texts, texts, texts, numbers, blobs, ids, numbers, numbers)


class Draft:
    """Collects rows; `append` writes them with their block in one statement."""

    def __init__(self) -> None:
        self.now_micros = 0
        self._jobs: list[str | None] = []
        self._seqs: list[int] = []
        self._types: list[str] = []
        self._clients: list[str] = []
        self._events: list[bytes] = []
        self._bodies: list[tuple[str, str, bytes]] = []
        self._steps: list[StepRow] = []
        self._versions: list[VersionRow] = []
        self.event_bytes = 0

    def __bool__(self) -> bool:
        """Tell whether there is anything to commit."""
        return bool(self._events)

    def add_event(self, event: Event, type: str) -> None:
        """Add an event to the end; it is serialised here, once."""
        self._jobs.append(event.job_id or None)
        self._seqs.append(event.seq)
        self._types.append(type)
        self._clients.append(event.client_id)
        body = event.SerializeToString(deterministic=True)
        self._events.append(body)
        self.event_bytes += len(body)

    def add_body(self, job_id: str, kind: str, body: bytes) -> None:
        """Add an input or output."""
        self._bodies.append((job_id, kind, body))

    def add_steps(self, rows: Iterable[StepRow]) -> None:
        """Add to the journal."""
        self._steps.extend(rows)

    def add_decision(self, decision: Decision[object]) -> None:
        """Add what a decision adds, the rows that it updates aside."""
        for event in decision.events:
            self.add_event(event, event.WhichOneof("payload") or "")
        if decision.output is not None and decision.job is not None:
            self.add_body(decision.job.job_id, "output", decision.output)
        self._steps.extend(decision.steps)
        self._versions.extend(decision.versions)

    def seal(self, head: Head) -> Block:
        """Return the block that follows a head."""
        root = merkle_root(self._events)
        height, count = head.height + 1, len(self._events)
        own = block_hash(head.chain, height, head.timeline, head.hash, root, count, self.now_micros)
        return Block(
            chain=head.chain,
            height=height,
            timeline=head.timeline,
            prev_hash=head.hash,
            merkle_root=root,
            hash=own,
            time_micros=self.now_micros,
            event_count=count,
            events=self._events,
        )

    async def append(self, statements: Statements, block: Block) -> None:
        """Write the sealed block and all that came with it, in one statement."""
        name = "append"
        arguments: list[object] = [
            block.chain,
            block.height,
            block.timeline,
            block.prev_hash,
            block.merkle_root,
            block.hash,
            block.event_count,
            block.time_micros,
            *ids(self._jobs),
            *numbers(self._seqs),
            *texts(self._types),
            *texts(self._clients),
            *blobs(self._events),
        ]
        more = self._steps or self._versions
        if more or self._bodies:
            name = "append_with_bodies"
            arguments += encode(self._bodies, ids, texts, blobs)
        if more:
            name = "append_with_all"
            arguments += encode(self._steps, *_STEP)
            arguments += encode(self._versions, *_VERSION)
        await statements.fetch(name, *arguments)
