"""Exports of the log: header, blocks by chain and height, footer, all of one moment."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Final

from services.ledger.block_reader import BlockReader
from services.ledger.read_pool import ReadPool
from workmesh.clock import Clock, micros
from workmesh.export import FORMAT
from workmesh.ledger.v1.block_pb2 import Block, ExportFooter, ExportHeader, ExportRecord, Position

_SECONDS: Final = 60.0
_PART_BYTES: Final = 2 << 20


class Exporter:
    """Reads the log in one snapshot, a page at a time; constructed with a pool of workmesh_auditor."""

    def __init__(self, pool: ReadPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def export(self, after: Iterable[Position]) -> AsyncGenerator[list[ExportRecord], None]:
        """Yield the records after the positions in parts of about 2 MiB.

        ABORTED FEED_DIVERGED if one of the positions names a block that the log does not have.
        """
        starts = {each.chain: each for each in after}
        began = micros(self._clock.time())
        async with self._pool.snapshot(_SECONDS) as snapshot:
            reader = BlockReader(snapshot.fetch)
            await reader.check(starts.values())
            heads = await reader.heads()
            for head in heads:
                starts.setdefault(head.chain, Position(chain=head.chain))
            yield [ExportRecord(header=_header(began, [starts[chain] for chain in sorted(starts)]))]
            blocks = events = 0
            for head in heads:
                async for page in _pages(reader, starts[head.chain]):
                    blocks += len(page)
                    events += sum(len(block.events) for block in page)
                    for part in in_parts(page, _PART_BYTES):
                        yield part
            footer = ExportFooter(heads=heads, block_count=blocks, event_count=events)
            yield [ExportRecord(footer=footer)]


def in_parts(blocks: Sequence[Block], part_bytes: int) -> Iterator[list[ExportRecord]]:
    """Cut blocks into parts that stay within a size, save where a single block exceeds it."""
    part: list[ExportRecord] = []
    size = 0
    for block in blocks:
        bytes_ = block.ByteSize()
        if part and size + bytes_ > part_bytes:
            yield part
            part, size = [], 0
        part.append(ExportRecord(block=block))
        size += bytes_
    if part:
        yield part


async def _pages(reader: BlockReader, start: Position) -> AsyncGenerator[list[Block], None]:
    height = start.height
    while page := await reader.after(start.chain, height, _PART_BYTES):
        yield page
        height = page[-1].height


def _header(began: int, starts: list[Position]) -> ExportHeader:
    # `from` is a word of the language, hence not an argument's name.
    return ExportHeader(format=FORMAT, time_micros=began, **{"from": starts})
