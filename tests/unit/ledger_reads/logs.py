"""Logs made in memory: jobs' events in blocks on several chains, as writers leave them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hypothesis import settings
from hypothesis import strategies as st

from workmesh.chain import GENESIS, block_hash, merkle_root
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, ExportFooter, ExportHeader, ExportRecord, Position
from workmesh.ledger.v1.event_pb2 import ChainOpened, Event, JobCreated, StepsRecorded
from workmesh.verify import Verdict

JOBS = tuple(f"0199d1f5-0000-7000-8000-{number:012d}" for number in range(6))


def seal(block: Block) -> Block:
    """Set root, count and hash of a block to what its events and header say."""
    block.event_count = len(block.events)
    block.merkle_root = merkle_root(block.events)
    block.hash = block_hash(
        block.chain,
        block.height,
        block.timeline,
        block.prev_hash,
        block.merkle_root,
        block.event_count,
        block.time_micros,
    )
    return block


def next_block(before: Block | None, events: Sequence[bytes], *, chain: int) -> Block:
    """Return the block that follows another, or the first of a chain."""
    height = before.height + 1 if before is not None else 1
    return seal(
        Block(
            chain=chain,
            height=height,
            timeline=1,
            prev_hash=before.hash if before is not None else GENESIS,
            time_micros=1_800_000_000_000_000 + height,
            events=events,
        )
    )


class LogBuilder:
    """Appends blocks to chains and counts each job's events."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._last: dict[int, Block] = {}
        self._seqs: Counter[str] = Counter()

    def append(self, chain: int, jobs: Iterable[int]) -> Block:
        """Append a block with the next event of each job; a chain's first event opens it."""
        events = [] if chain in self._last else [_opening(chain)]
        events += [self._event(JOBS[job]) for job in jobs]
        block = next_block(self._last.get(chain), events, chain=chain)
        self._last[chain] = block
        self.blocks.append(block)
        return block

    def heads(self) -> list[Position]:
        """Return the head of every chain."""
        return [position(block) for _, block in sorted(self._last.items())]

    def export(self) -> list[ExportRecord]:
        """Return the export of the whole log, chain by chain."""
        ordered = sorted(self.blocks, key=lambda block: (block.chain, block.height))
        return export(ordered, self.heads())

    def _event(self, job_id: str) -> bytes:
        self._seqs[job_id] += 1
        seq = self._seqs[job_id]
        event = Event(job_id=job_id, seq=seq, time_micros=1_800_000_000_000_000 + seq, client_id="client")
        if seq == 1:
            event.job_created.CopyFrom(JobCreated(input_digest=bytes(32)))
        else:
            event.steps_recorded.CopyFrom(StepsRecorded(epoch=seq))
        return event.SerializeToString()


def export(blocks: Sequence[Block], heads: Sequence[Position]) -> list[ExportRecord]:
    """Return blocks between a header and the footer that fits them."""
    events = sum(len(block.events) for block in blocks)
    header = ExportHeader(format=1, time_micros=1)
    getattr(header, "from").extend(Position(chain=head.chain) for head in heads)
    footer = ExportFooter(heads=heads, block_count=len(blocks), event_count=events)
    records = [ExportRecord(block=block) for block in blocks]
    return [ExportRecord(header=header), *records, ExportRecord(footer=footer)]


def position(block: Block) -> Position:
    """Return the position after a block."""
    return Position(timeline=block.timeline, chain=block.chain, height=block.height, hash=block.hash)


def _opening(chain: int) -> bytes:
    return Event(chain_opened=ChainOpened(chain=chain, timeline=1, instance="ledger")).SerializeToString()


bounded = settings(max_examples=40, deadline=None)


@st.composite
def logs(draw: st.DrawFn) -> LogBuilder:
    """Two to three chains of up to a dozen blocks, with events of six jobs across them."""
    log = LogBuilder()
    jobs = st.lists(st.integers(0, len(JOBS) - 1), min_size=1, max_size=5)
    for chain, numbers in draw(st.lists(st.tuples(st.integers(1, 3), jobs), min_size=2, max_size=12)):
        log.append(chain, numbers)
    return log


def pick(data: st.DataObject, blocks: list[ExportRecord], least_events: int = 1) -> int:
    """Draw a block with at least so many events, by its place among the records."""
    fitting = [i for i, each in enumerate(blocks) if len(each.block.events) >= least_events]
    return data.draw(st.sampled_from(fitting)) if fitting else -1


def places(verdict: Verdict) -> list[tuple[int, int]]:
    """Return chain and height of every fault listed."""
    return [(fault.chain, fault.height) for fault in verdict.faults]


def first_at(verdict: Verdict, chain: int) -> ChainFault:
    """Return the first fault of a chain."""
    return next(fault for fault in verdict.faults if fault.chain == chain)


def anything() -> bytes:
    """Return an event that no job misses."""
    return Event(steps_recorded=StepsRecorded(epoch=99)).SerializeToString()
