from __future__ import annotations

from collections.abc import AsyncIterable

import asyncpg
import grpc
import pytest

from services.ledger.follower import FeedPolicy
from tests.integration.ledger_reads.following import NEVER, by_place, position, work
from tests.integration.ledger_reads.mesh import Ledger, step
from tests.integration.ledger_reads.served import Served, refused, serve
from workmesh.ledger.v1 import feed_service_pb2 as pb
from workmesh.ledger.v1.block_pb2 import Block, Position

SMALL_MEMORY = FeedPolicy(recent_blocks=3)


async def test_the_stream_gives_blocks_as_they_were_built_and_goes_on_after_a_reconnect(
    ledger: Ledger, served: Served
) -> None:
    await work(ledger, 10)
    seen: list[Block] = []
    positions: dict[int, Position] = {}
    for count in (12, 30, 40):
        await work(ledger, 20)
        request = pb.TailBlocksRequest(after=positions.values())
        stream = served.feed.TailBlocks(request)
        async for response in stream:
            seen += response.blocks
            positions |= {block.chain: position(block) for block in response.blocks}
            if len(seen) >= count:
                break
        stream.cancel()
    assert by_place(seen) == by_place(ledger.blocks.all)[: len(seen)] or len(seen) < len(ledger.blocks.all)
    known = {(block.chain, block.height): block for block in ledger.blocks.all}
    assert all(known[block.chain, block.height] == block for block in seen)
    assert len({(block.chain, block.height) for block in seen}) == len(seen)


async def test_a_stream_whose_position_diverged_is_aborted(ledger: Ledger, served: Served) -> None:
    request = pb.TailBlocksRequest(after=[Position(chain=1, height=1, hash=bytes(32))])
    error = await refused(served.feed.TailBlocks(request).read())
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "FEED_DIVERGED")


@pytest.mark.parametrize(
    ("after", "field"),
    [
        ([Position(chain=0)], "after[0].chain"),
        ([Position(chain=-1)], "after[0].chain"),
        ([Position(chain=1), Position(chain=1)], "after[1].chain"),
        ([Position(chain=1, height=-1)], "after[0].height"),
        ([Position(chain=1, height=1)], "after[0].hash"),
        ([Position(chain=1, height=0, hash=bytes(32))], "after[0].hash"),
    ],
)
async def test_malformed_positions_are_refused_by_name(
    served: Served, after: list[Position], field: str
) -> None:
    error = await refused(served.feed.TailBlocks(pb.TailBlocksRequest(after=after)).read())
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_followers_are_sent_away_when_the_process_drains(ledger: Ledger) -> None:
    feed = await ledger.feed(sweep=NEVER)
    async with serve(ledger, feed) as served:
        stream = aiter(served.feed.TailBlocks(pb.TailBlocksRequest()))
        await anext(stream)
        await feed.close()
        error = await refused(_end(stream))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        error = await refused(_end(served.feed.TailBlocks(pb.TailBlocksRequest())))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def _end(stream: AsyncIterable[pb.TailBlocksResponse]) -> None:
    async for _ in stream:
        pass


async def test_a_slow_reader_gets_everything_in_the_end(ledger: Ledger) -> None:
    feed = await ledger.feed(SMALL_MEMORY, sweep=NEVER)
    async with serve(ledger, feed) as served:
        stream = served.feed.TailBlocks(pb.TailBlocksRequest())
        blocks: list[Block] = []
        async for response in stream:
            blocks += response.blocks
            break
        job_ids = await ledger.create(40)
        for epoch, job_id in zip(await ledger.begin(*job_ids), job_ids, strict=True):
            await ledger.record(job_id, epoch, *(step(str(number)) for number in range(100)))
        async for response in stream:
            blocks += response.blocks
            if len(blocks) == len(ledger.blocks.all):
                break
        stream.cancel()
    assert by_place(blocks) == by_place(ledger.blocks.all)


async def test_heads_are_the_newest_blocks_of_all_chains(ledger: Ledger, served: Served) -> None:
    await work(ledger, 6)
    heads = (await served.feed.GetHeads(pb.GetHeadsRequest(), timeout=5)).heads
    newest = {block.chain: position(block) for block in by_place(ledger.blocks.all)}
    assert list(heads) == [newest[chain] for chain in sorted(newest)]


async def test_a_cursor_is_empty_until_stored(served: Served, superuser: asyncpg.Connection) -> None:
    request = pb.GetCursorRequest(name="projection")
    assert await served.feed.GetCursor(request, timeout=5) == pb.GetCursorResponse()
    stored = Position(timeline=1, chain=1, height=5, hash=bytes(32))
    await superuser.execute(
        "insert into cursors (name, epoch, positions, data, update_time_micros) values ($1, 7, $2, $3, 1)",
        "projection",
        [stored.SerializeToString()],
        b"data",
    )
    assert await served.feed.GetCursor(request, timeout=5) == pb.GetCursorResponse(
        positions=[stored], data=b"data", epoch=7
    )
    error = await refused(served.feed.GetCursor(pb.GetCursorRequest(name="Not a name"), timeout=5))
    assert error.violations[0].field == "name"
