"""Proof of the log as the database has it: hashes computed anew, copies compared with what they copy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError

from services.ledger import statements
from services.ledger.body_digests import BodyDigests
from services.ledger.history_check import HistoryCheck
from services.ledger.read_pool import ReadPool, Row, Snapshot
from workmesh.job_order import Place
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, Position
from workmesh.ledger.v1.event_pb2 import Event
from workmesh.verify import ChainWalk, FaultList, make_fault, misfit_of

# A page is checked between two turns of the loop that also serves the writers: some milliseconds' work.
_PAGE_EVENTS: Final = 512
_PAGE_BLOCKS: Final = 128
_PAGE_SECONDS: Final = 60.0
_HISTORY_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Findings:
    """What was verified so far; at the end also the faults, the first of each chain first, and the heads."""

    block_count: int
    event_count: int
    finished: bool = False
    faults: tuple[ChainFault, ...] = ()
    heads: tuple[Position, ...] = ()


class Auditor:
    """Verifies chains in one snapshot, a page at a time; constructed with a pool of workmesh_auditor."""

    def __init__(self, pool: ReadPool) -> None:
        self._pool = pool
        self._sql = statements.load("audit")

    async def verify(self, chains: Iterable[int]) -> AsyncGenerator[Findings, None]:
        """Yield findings, growing, and finished ones in the end; of all chains if none is named."""
        async with self._pool.snapshot(_HISTORY_SECONDS) as snapshot:
            wanted = sorted(set(chains))
            every = [row[0] for row in await snapshot.fetch(self._sql["chains"])]
            run = _Verification(snapshot, self._sql)
            for chain in wanted or every:
                async for findings in run.walk(chain):
                    yield findings
            yield await run.finish(frozenset(wanted))


class _Verification:
    def __init__(self, snapshot: Snapshot, sql: Mapping[str, str]) -> None:
        self._snapshot = snapshot
        self._sql = sql
        self._faults = FaultList()
        self._heads: list[Position] = []
        self._blocks = self._events = 0

    async def walk(self, chain: int) -> AsyncGenerator[Findings, None]:
        """Verify one chain, yielding findings after each page."""
        walk = ChainWalk(chain)
        height = 0
        while headers := await self._headers(chain, height):
            last = headers[-1]["height"]
            await self._check_page(walk, headers, await self._rows(chain, height, last))
            height = last
            yield Findings(self._blocks, self._events)
        if not height:
            text = "the chain has no block"
            self._faults.add([make_fault(chain, 1, ChainFault.KIND_MISSING_BLOCK, text)])
        await self._check_strays(chain, height)
        self._heads.append(walk.head())

    async def finish(self, wanted: frozenset[int]) -> Findings:
        """Check the jobs' histories across chains and return what was found in all."""
        check = HistoryCheck(self._snapshot, self._sql, _HISTORY_SECONDS)
        self._faults.add([fault async for fault in check.faults(wanted)])
        return Findings(self._blocks, self._events, True, self._faults.listed(), tuple(self._heads))

    async def _headers(self, chain: int, height: int) -> list[Row]:
        """Return the next headers: as many as have a page's events, at least one."""
        statement = self._sql["headers_after"]
        rows = await self._snapshot.fetch(statement, chain, height, _PAGE_BLOCKS, seconds=_PAGE_SECONDS)
        events = 0
        for index, row in enumerate(rows):
            events += row["event_count"]
            if index and events > _PAGE_EVENTS:
                return rows[:index]
        return rows

    async def _rows(self, chain: int, after: int, until: int) -> dict[int, list[Row]]:
        """Return the rows of events by height."""
        by_height: dict[int, list[Row]] = {}
        statement = self._sql["events_between"]
        for row in await self._snapshot.fetch(statement, chain, after, until, seconds=_PAGE_SECONDS):
            by_height.setdefault(row["height"], []).append(row)
        return by_height

    async def _check_page(
        self, walk: ChainWalk, headers: Sequence[Row], rows: Mapping[int, list[Row]]
    ) -> None:
        digests = BodyDigests()
        for header in headers:
            events = rows.get(header["height"], [])
            self._blocks += 1
            self._events += len(events)
            self._faults.add(walk.step(Block(**header, events=[row["body"] for row in events])))
            for index, row in enumerate(events):
                self._check_event(row, Place(walk.chain, header["height"], index), digests)
        for place, text in await digests.misfits(self._snapshot.fetch, self._sql, _PAGE_SECONDS):
            self._add(place, ChainFault.KIND_WRONG_BODY, text)

    def _check_event(self, row: Row, place: Place, digests: BodyDigests) -> None:
        try:
            event = Event.FromString(row["body"])
        except DecodeError:
            self._add(place, ChainFault.KIND_WRONG_EVENT, "the bytes are no event")
            return
        wrong = misfit_of(event) or _disagreement(row, event, place.index)
        if wrong is not None:
            self._add(place, ChainFault.KIND_WRONG_EVENT, wrong)
        digests.add(event, place)

    async def _check_strays(self, chain: int, head: int) -> None:
        """Look for events above the head: of a block that was taken away, or added without one."""
        [(height,)] = await self._snapshot.fetch(self._sql["stray_events"], chain, head)
        if height is not None:
            text = "there are events of this block, but no block"
            self._faults.add([make_fault(chain, height, ChainFault.KIND_MISSING_BLOCK, text)])

    def _add(self, place: Place, kind: ChainFault.Kind.ValueType, text: str) -> None:
        self._faults.add([make_fault(place.chain, place.height, kind, text, place.index)])


def _disagreement(row: Row, event: Event, index: int) -> str | None:
    """Return which columns of an event's row do not say what its bytes say; None if all do."""
    told = {
        "index": index,
        "job_id": event.job_id or None,
        "seq": event.seq,
        "type": event.WhichOneof("payload"),
        "client_id": event.client_id,
        "time_micros": event.time_micros,
    }
    wrong = [column for column, value in told.items() if row[column] != value]
    return f"the bytes do not say what the row says of {', '.join(wrong)}" if wrong else None
