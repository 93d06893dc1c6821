"""Offline proof of the log: walks chains block by block and an export record by record.

Whoever holds an export needs nothing else to find what was changed in it: each block's header is hashed, its
events are hashed into its Merkle root, and it names the hash of the block before (workmesh.chain). A forger
who recomputes a whole chain is caught by positions held from elsewhere (`known`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from workmesh.chain import GENESIS, block_hash, merkle_root
from workmesh.export import FORMAT, ExportDamaged
from workmesh.job_order import JobOrder, Place
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, ExportFooter, ExportHeader, ExportRecord, Position
from workmesh.ledger.v1.event_pb2 import Event

MAX_FAULTS: Final = 100
BLOCK_ITSELF: Final = -1
"""Index of a fault that is the block's and no single event's."""

Kind: TypeAlias = "ChainFault.Kind.ValueType"


def make_fault(
    chain: int, height: int, kind: Kind, description: str, index: int = BLOCK_ITSELF
) -> ChainFault:
    """Return a fault at a place."""
    return ChainFault(chain=chain, height=height, index=index, kind=kind, description=description)


class FaultList:
    """Faults found: all are counted, at most 100 are kept, the first of each chain in any case."""

    def __init__(self) -> None:
        self._kept: list[ChainFault] = []
        self._chains: set[int] = set()
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, faults: Iterable[ChainFault]) -> None:
        for fault in faults:
            self.count += 1
            if fault.chain not in self._chains:
                self._chains.add(fault.chain)
                self._kept.insert(len(self._chains) - 1, fault)
            elif len(self._kept) < MAX_FAULTS:
                self._kept.append(fault)

    def listed(self) -> tuple[ChainFault, ...]:
        """Return the faults kept, the first of each chain first."""
        return tuple(self._kept[:MAX_FAULTS])


class ChainWalk:
    """Follows one chain upwards from a position, block by block."""

    def __init__(self, chain: int, start: Position | None = None) -> None:
        self.chain = chain
        self.start = self.height = start.height if start is not None else 0
        self._timeline = start.timeline if start is not None else 0
        self._hash = start.hash if start is not None and start.height else GENESIS
        # What the next block may name as previous; None after a hole: anything.
        self._links: tuple[bytes, ...] | None = (self._hash,)

    def head(self) -> Position:
        """Return the position of the newest block walked."""
        last = self._hash if self.height else b""
        return Position(timeline=self._timeline, chain=self.chain, height=self.height, hash=last)

    def step(self, block: Block) -> list[ChainFault]:
        """Take the next block and return what is wrong with it or before it.

        A fault is reported where it is: the block after a faulty one is judged as if that were whole.
        """
        faults: list[ChainFault] = []
        if block.height <= self.height:
            text = f"stands after block {self.height} of its chain"
            return [make_fault(self.chain, block.height, ChainFault.KIND_BROKEN_LINK, text)]
        if block.height > self.height + 1:
            faults.append(self._hole(block.height))
            self._links = None
        computed = _hash_of(block)
        wrong = _fault_of(block, self._links, computed)
        if wrong is not None:
            faults.append(make_fault(self.chain, block.height, *wrong))
        self._links = (block.hash,) if wrong is None or computed is None else (block.hash, computed)
        self.height, self._hash, self._timeline = block.height, block.hash, block.timeline
        return faults

    def end(self, head: Position) -> list[ChainFault]:
        """Return how the walk differs from the head at which the chain is said to end."""
        if head.height > self.height:
            return [self._hole(head.height + 1)]
        if head.height < self.height:
            text = f"stands after the chain's head at height {head.height}"
            return [make_fault(self.chain, head.height + 1, ChainFault.KIND_BROKEN_LINK, text)]
        if self.height > self.start and head.hash != self._hash:
            text = "is not the block that the chain's head names"
            return [make_fault(self.chain, head.height, ChainFault.KIND_WRONG_HASH, text)]
        return []

    def _hole(self, next_height: int) -> ChainFault:
        first, last = self.height + 1, next_height - 1
        text = f"block {first} is missing" if first == last else f"blocks {first} to {last} are missing"
        return make_fault(self.chain, first, ChainFault.KIND_MISSING_BLOCK, text)


def event_faults(block: Block, order: JobOrder | None) -> list[ChainFault]:
    """Return what is wrong with single events of a block, and enter them in the order if one is given."""
    faults: list[ChainFault] = []
    for index, data in enumerate(block.events):
        try:
            event = Event.FromString(data)
        except DecodeError:
            wrong: str | None = "the bytes are no event"
        else:
            wrong = misfit_of(event)
            if wrong is None and order is not None and event.job_id:
                wrong = order.enter(event.job_id, event.seq, Place(block.chain, block.height, index))
        if wrong is not None:
            kind = ChainFault.KIND_WRONG_EVENT
            faults.append(make_fault(block.chain, block.height, kind, wrong, index))
    return faults


def misfit_of(event: Event) -> str | None:
    """Return what is wrong with an event in itself, or None."""
    if bool(event.job_id) != (event.seq > 0):
        return f"its sequence number is {event.seq}, its job {event.job_id or 'none'}"
    return None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an export proves.

    `faults` lists at most 100, the first of each chain first, of `fault_count`; `damage` says what is wrong
    with the file apart from its blocks (a cut, a missing header, wrong totals).
    """

    faults: tuple[ChainFault, ...]
    fault_count: int
    damage: tuple[str, ...]
    heads: tuple[Position, ...]
    block_count: int
    event_count: int

    @property
    def holds(self) -> bool:
        """Whether the export is whole and nothing in it was changed."""
        return not self.fault_count and not self.damage


def verify_export(records: Iterable[ExportRecord], *, known: Iterable[Position] = ()) -> Verdict:
    """Check every record of an export in one pass; memory grows with chains and jobs, not with blocks.

    `known` are positions held from elsewhere (a checkpoint, a follower's cursor): the blocks they name must
    be those of the export. An ExportDamaged that the records raise becomes part of the verdict.
    """
    check = _ExportCheck(known)
    try:
        for record in records:
            check.take(record)
    except ExportDamaged as damaged:
        check.damage.append(str(damaged))
    return check.verdict()


class _ExportCheck:
    def __init__(self, known: Iterable[Position]) -> None:
        self.damage: list[str] = []
        self._known = {(each.chain, each.height): each for each in known if each.height}
        self._faults = FaultList()
        self._walks: dict[int, ChainWalk] = {}
        self._order = JobOrder()
        self._header: ExportHeader | None = None
        self._footer: ExportFooter | None = None
        self._blocks = self._events = self._records = 0

    def take(self, record: ExportRecord) -> None:
        self._records += 1
        kind = record.WhichOneof("record")
        if self._footer is not None:
            self._note("a record stands after the footer")
        if kind == "block":
            self._take_block(record.block)
        elif kind == "header":
            self._take_header(record.header)
        elif kind == "footer":
            self._footer = record.footer
        else:
            self._note("a record is of no known kind")

    def _take_header(self, header: ExportHeader) -> None:
        if self._header is not None or self._records > 1:
            self._note("a header stands inside the file")
            return
        self._header = header
        if header.format != FORMAT:
            self._note(f"the format is {header.format}, this program reads {FORMAT}")
        for start in getattr(header, "from"):
            self._walks[start.chain] = ChainWalk(start.chain, start)

    def _take_block(self, block: Block) -> None:
        self._blocks += 1
        self._events += len(block.events)
        walk = self._walks.get(block.chain)
        if walk is None:
            walk = self._walks[block.chain] = ChainWalk(block.chain)
        faults = walk.step(block)
        known = self._known.pop((block.chain, block.height), None)
        if known is not None and known.hash != block.hash:
            text = "is not the block that is known from elsewhere"
            faults.append(make_fault(block.chain, block.height, ChainFault.KIND_WRONG_HASH, text))
        self._faults.add(faults)
        self._faults.add(event_faults(block, self._order))

    def verdict(self) -> Verdict:
        if self._header is None:
            self._note("there is no header")
        if self._footer is None:
            self._note("there is no footer: the export was cut")
        else:
            self._compare_totals(self._footer)
            self._compare_heads({head.chain: head for head in self._footer.heads})
        self._add_unmet()
        # Only a log that is whole from its start holds every job's whole history.
        if not self._faults and not self.damage and not any(walk.start for walk in self._walks.values()):
            self._faults.add(
                make_fault(place.chain, place.height, ChainFault.KIND_WRONG_EVENT, text, place.index)
                for place, text in self._order.gaps()
            )
        return Verdict(
            faults=self._faults.listed(),
            fault_count=self._faults.count,
            damage=tuple(self.damage),
            heads=tuple(self._walks[chain].head() for chain in sorted(self._walks)),
            block_count=self._blocks,
            event_count=self._events,
        )

    def _compare_totals(self, footer: ExportFooter) -> None:
        if (footer.block_count, footer.event_count) != (self._blocks, self._events):
            self._note(
                f"the footer counts {footer.block_count} blocks and {footer.event_count} events, "
                f"the file has {self._blocks} and {self._events}"
            )

    def _compare_heads(self, heads: Mapping[int, Position]) -> None:
        for chain in sorted(self._walks.keys() | heads.keys()):
            walk = self._walks.setdefault(chain, ChainWalk(chain))
            head = heads.get(chain, Position(chain=chain, height=walk.start))
            self._faults.add(walk.end(head))

    def _add_unmet(self) -> None:
        """Add the known blocks that the export should have reached and did not."""
        for chain, height in sorted(self._known):
            walk = self._walks.get(chain, ChainWalk(chain))
            if height > walk.height:
                self._faults.add(walk.end(self._known[chain, height]))

    def _note(self, damage: str) -> None:
        if damage not in self.damage:
            self.damage.append(damage)


def _fault_of(
    block: Block, links: tuple[bytes, ...] | None, computed: bytes | None
) -> tuple[Kind, str] | None:
    if links is not None and block.prev_hash not in links:
        return ChainFault.KIND_BROKEN_LINK, "does not name the block before it"
    if not block.events or block.event_count != len(block.events):
        text = f"holds {len(block.events)} events, its header says {block.event_count}"
        return ChainFault.KIND_WRONG_COUNT, text
    if block.merkle_root != merkle_root(block.events):
        return ChainFault.KIND_WRONG_ROOT, "its events are not those that were committed"
    if computed is None or block.hash != computed:
        return ChainFault.KIND_WRONG_HASH, "its header is not the one that was committed"
    return None


def _hash_of(block: Block) -> bytes | None:
    """Return the hash of the header; None when a field is out of range, which no committed one is."""
    try:
        return block_hash(
            block.chain,
            block.height,
            block.timeline,
            block.prev_hash,
            block.merkle_root,
            block.event_count,
            block.time_micros,
        )
    except ValueError:
        return None
