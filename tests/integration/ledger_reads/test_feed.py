from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import asyncpg
import grpc
import pytest

from services.ledger.database import BLOCKS_CHANNEL
from services.ledger.feed import Feed
from services.ledger.follower import FeedPolicy, Follower
from services.ledger.notifier import Notifier
from tests.integration.ledger_reads.databases import Databases
from tests.integration.ledger_reads.mesh import Ledger, step
from tests.integration.ledger_reads.served import Served, refused, serve
from workmesh.errors import MeshError
from workmesh.ledger.v1 import feed_service_pb2 as pb
from workmesh.ledger.v1.block_pb2 import Block, Position

NEVER = 3_600.0
SMALL_MEMORY = FeedPolicy(recent_blocks=3)


def position(block: Block) -> Position:
    return Position(timeline=block.timeline, chain=block.chain, height=block.height, hash=block.hash)


class Reader:
    """Pulls blocks from a follower and checks that each chain comes in order and without gaps."""

    def __init__(self, feed: Feed, follower: Follower, after: Iterable[Position] = ()) -> None:
        self.blocks: list[Block] = []
        self.sizes: list[int] = []
        self._feed = feed
        self._follower = follower
        self._cursors = {each.chain: each for each in after}

    @classmethod
    async def join(cls, feed: Feed, after: Iterable[Position] = ()) -> Reader:
        positions = list(after)
        return cls(feed, await feed.follow(positions), positions)

    @property
    def positions(self) -> list[Position]:
        return list(self._cursors.values())

    async def pull(self) -> list[Block]:
        blocks = await self._follower.next()
        for block in blocks:
            before = self._cursors.get(block.chain, Position())
            assert block.height == before.height + 1
            assert block.prev_hash == (before.hash or bytes(32))
            self._cursors[block.chain] = position(block)
        self.blocks += blocks
        self.sizes.append(len(blocks))
        return blocks

    async def pull_until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not reached():
                await self.pull()

    async def pull_all(self, ledger: Ledger) -> None:
        """Pull until every block that the ledger has committed by now is here."""
        await self.pull_until(lambda: self.has(ledger.blocks.all))

    def has(self, blocks: Iterable[Block]) -> bool:
        return all(
            block.chain in self._cursors and self._cursors[block.chain].height >= block.height
            for block in blocks
        )

    def leave(self) -> None:
        self._feed.leave(self._follower)


def by_place(blocks: Iterable[Block]) -> list[Block]:
    return sorted(blocks, key=lambda block: (block.chain, block.height))


async def work(ledger: Ledger, batches: int) -> None:
    """Commit blocks on both chains at once."""

    async def half() -> None:
        for _ in range(batches // 2):
            await ledger.create(random.randint(1, 4))

    await asyncio.gather(half(), half())


async def test_a_follower_gets_what_was_there_and_then_every_commit(ledger: Ledger) -> None:
    await work(ledger, 10)
    feed = await ledger.feed(sweep=NEVER)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    for _ in range(10):
        await ledger.create(2)
        await reader.pull_all(ledger)
    assert by_place(reader.blocks) == by_place(ledger.blocks.all)
    assert len({block.chain for block in reader.blocks}) == 2


@pytest.mark.parametrize("policy", [FeedPolicy(), SMALL_MEMORY], ids=["in memory", "beyond memory"])
async def test_followers_that_join_lag_and_resume_miss_and_repeat_nothing(
    ledger: Ledger, policy: FeedPolicy
) -> None:
    feed = await ledger.feed(policy, sweep=NEVER)
    writing = asyncio.create_task(work(ledger, 120))

    async def steady() -> list[Block]:
        reader = await Reader.join(feed)
        while not (writing.done() and reader.has(ledger.blocks.all)):
            await reader.pull()
        return reader.blocks

    async def lagging() -> list[Block]:
        reader = await Reader.join(feed)
        while not (writing.done() and reader.has(ledger.blocks.all)):
            await ledger.blocks.reached(min(len(ledger.blocks.all) + 17, 120))
            await reader.pull()
        return reader.blocks

    async def resuming() -> list[Block]:
        blocks: list[Block] = []
        positions: list[Position] = []
        while True:
            reader = await Reader.join(feed, positions)
            for _ in range(random.randint(1, 3)):
                if writing.done() and reader.has(ledger.blocks.all):
                    return blocks + reader.blocks
                await reader.pull()
            reader.leave()
            blocks += reader.blocks
            positions = reader.positions

    async def joining(after: int) -> list[Block]:
        await ledger.blocks.reached(after)
        return await steady()

    async with asyncio.timeout(60):
        results = await asyncio.gather(
            steady(), lagging(), resuming(), resuming(), joining(20), joining(60), joining(110)
        )
    await writing
    expected = by_place(ledger.blocks.all)
    assert len({block.chain for block in expected}) == 2
    for blocks in results:
        assert by_place(blocks) == expected


async def test_two_feeds_on_one_database_give_the_same_blocks(
    ledger: Ledger, databases: Databases, database: str
) -> None:
    async with (
        Ledger(databases.url(database), writers=1, name="ledger-2") as second,
        notified(ledger, second),
    ):
        feeds = [
            await ledger.feed(sweep=NEVER),
            await second.feed(sweep=NEVER),
            await second.feed(SMALL_MEMORY, sweep=NEVER, own_blocks=False),
        ]
        readers = [await Reader.join(feed) for feed in feeds]
        writing = asyncio.gather(work(ledger, 40), work(second, 20))

        async def read(reader: Reader) -> None:
            while not (writing.done() and reader.has(ledger.blocks.all) and reader.has(second.blocks.all)):
                await reader.pull()

        async with asyncio.timeout(40):
            await asyncio.gather(*map(read, readers))
        await writing
        expected = by_place([*ledger.blocks.all, *second.blocks.all])
        assert len({block.chain for block in expected}) == 3
        for reader in readers:
            assert by_place(reader.blocks) == expected


@asynccontextmanager
async def notified(*ledgers: Ledger) -> AsyncIterator[None]:
    """Let ledgers notify of their blocks as services do."""
    tasks = []
    for ledger in ledgers:
        pool = await asyncpg.create_pool(ledger.url, min_size=1, max_size=1)
        notifier = Notifier(pool, ledger.name)
        ledger.blocks.listeners.append(notifier.committed)
        tasks.append((asyncio.create_task(notifier.run()), pool))
    yield
    for task, pool in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await pool.close()


async def test_blocks_that_nobody_notified_of_are_found_by_the_sweep(ledger: Ledger) -> None:
    feed = await ledger.feed(sweep=0.05, own_blocks=False)
    reader = await Reader.join(feed)
    for _ in range(3):
        await ledger.create()
        await reader.pull_all(ledger)


async def test_a_listener_that_lost_its_connection_catches_up(
    ledger: Ledger, databases: Databases, superuser: asyncpg.Connection
) -> None:
    feed = await ledger.feed(sweep=NEVER, own_blocks=False)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    ended = await superuser.fetch(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
        f"{ledger.name}-listener",
    )
    assert len(ended) == 1
    await ledger.create()
    await reader.pull_all(ledger)
    async with notified(ledger):
        await ledger.create()
        await reader.pull_all(ledger)


async def test_a_chain_opened_later_is_followed_from_its_first_block(
    ledger: Ledger, databases: Databases, database: str
) -> None:
    feed = await ledger.feed(sweep=0.05)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    async with Ledger(databases.url(database), writers=1, name="ledger-2") as second:
        await second.create()
        await reader.pull_until(lambda: reader.has(second.blocks.all))
        assert {block.chain for block in reader.blocks} == {1, 2, 3}


async def test_commits_are_coalesced_for_a_follower_that_is_busy(ledger: Ledger) -> None:
    feed = await ledger.feed(sweep=NEVER)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    for _ in range(30):
        await ledger.create()
    assert len(await reader.pull()) == 30


@pytest.mark.parametrize("memory", [1_024, 1], ids=["from memory", "from the database"])
async def test_responses_keep_within_their_size_whatever_the_backlog(ledger: Ledger, memory: int) -> None:
    policy = FeedPolicy(recent_blocks=memory, response_bytes=40_000, response_blocks=7)
    feed = await ledger.feed(policy, sweep=NEVER)
    reader = await Reader.join(feed)
    labels = {f"label-{number}": "x" * 250 for number in range(30)}
    for count in (1, 1, 5, 1, *[2] * 10, *[1] * 20):
        await ledger.create(count, labels=labels if count > 1 else None)
    sizes: list[int] = []
    while not reader.has(ledger.blocks.all):
        blocks = await reader.pull()
        assert 1 <= len(blocks) <= 7
        sizes.append(sum(block.ByteSize() for block in blocks))
        assert len(blocks) == 1 or sizes[-1] <= 40_000
    assert max(sizes) > 30_000
    assert max(reader.sizes) == 7


async def test_a_position_of_another_log_has_diverged(ledger: Ledger) -> None:
    feed = await ledger.feed(sweep=NEVER)
    await ledger.create()
    block = ledger.blocks.all[-1]
    good = position(block)
    wrong = [
        Position(chain=good.chain, height=good.height, hash=bytes(32)),
        Position(chain=good.chain, height=good.height + 1, hash=good.hash),
        Position(chain=99, height=1, hash=good.hash),
    ]
    for each in wrong:
        with pytest.raises(MeshError) as caught:
            await feed.follow([each])
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.ABORTED, "FEED_DIVERGED")
    reader = await Reader.join(feed, [good, Position(chain=77)])
    await ledger.create()
    await reader.pull_all(ledger)


async def test_a_log_that_lost_blocks_has_diverged_from_who_saw_them(
    ledger: Ledger, superuser: asyncpg.Connection
) -> None:
    feed = await ledger.feed(sweep=0.05)
    early = await Reader.join(feed)
    await early.pull_all(ledger)
    await ledger.create()
    late = await Reader.join(feed, early.positions)
    await late.pull_all(ledger)
    lost = ledger.blocks.all[-1]
    await ledger.writers.close()
    async with superuser.transaction():
        for table in ("events", "blocks"):
            await superuser.execute(f"alter table {table} disable trigger all")
            statement = f"delete from {table} where chain = $1 and height = $2"  # noqa: S608
            await superuser.execute(statement, lost.chain, lost.height)
    with pytest.raises(MeshError) as caught:
        await late.pull_until(lambda: False)
    assert caught.value.reason == "FEED_DIVERGED"
    assert caught.value.metadata["chain"] == str(lost.chain)
    before = len(early.blocks)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await early.pull()
    assert len(early.blocks) == before


async def test_a_hole_in_the_log_is_not_stepped_over(ledger: Ledger, superuser: asyncpg.Connection) -> None:
    for _ in range(6):
        await ledger.create()
    chain = ledger.blocks.all[-1].chain
    async with superuser.transaction():
        await superuser.execute("alter table blocks disable trigger all")
        await superuser.execute("delete from blocks where chain = $1 and height = 3", chain)
    feed = await ledger.feed(own_blocks=False)
    reader = await Reader.join(feed)
    with pytest.raises(MeshError) as caught:
        await reader.pull_until(lambda: False)
    assert (caught.value.reason, caught.value.metadata["chain"]) == ("FEED_DIVERGED", str(chain))
    assert not any(block.height > 2 for block in reader.blocks if block.chain == chain)


async def test_rumours_of_blocks_do_no_harm(ledger: Ledger, superuser: asyncpg.Connection) -> None:
    feed = await ledger.feed(sweep=NEVER)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    for payload in ("1:999999", "5:1", "nonsense", "", "1:-1", "99999999999999999999:1"):
        await superuser.execute("select pg_notify($1, $2)", BLOCKS_CHANNEL, payload)
    for _ in range(3):
        await ledger.create()
        await reader.pull_all(ledger)
    assert by_place(reader.blocks) == by_place(ledger.blocks.all)


async def test_a_chain_that_has_come_further_than_was_told_is_followed_by_all(ledger: Ledger) -> None:
    feed = await ledger.feed(sweep=NEVER, own_blocks=False)
    first, second = await Reader.join(feed), await Reader.join(feed)
    await asyncio.gather(first.pull_all(ledger), second.pull_all(ledger))
    waiting = asyncio.create_task(second.pull_all(ledger))
    told = len(ledger.blocks.all)
    for _ in range(8):
        await ledger.create()
    for block in ledger.blocks.all[told:]:
        feed.heard(block.chain, 3)
    await first.pull_all(ledger)
    await second.pull_all(ledger)
    await waiting
    assert by_place(first.blocks) == by_place(second.blocks) == by_place(ledger.blocks.all)


async def test_an_idle_follower_gets_signs_of_life(ledger: Ledger) -> None:
    feed = await ledger.feed(replace(FeedPolicy(), sign_of_life=0.05), sweep=NEVER)
    reader = await Reader.join(feed)
    await reader.pull_all(ledger)
    assert [await reader.pull() for _ in range(3)] == [[], [], []]
    await ledger.create()
    await reader.pull_all(ledger)


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
