from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import asyncpg
import grpc
import pytest

from services.ledger.database import BLOCKS_CHANNEL
from services.ledger.follower import FeedPolicy
from tests.integration.ledger_reads.databases import Databases
from tests.integration.ledger_reads.following import NEVER, Reader, by_place, notified, position, work
from tests.integration.ledger_reads.mesh import Ledger
from workmesh.errors import MeshError
from workmesh.ledger.v1.block_pb2 import Block, Position

SMALL_MEMORY = FeedPolicy(recent_blocks=3)


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
    # No sign of life: a follower that is not woken when it should be waits until the test fails.
    feed = await ledger.feed(replace(policy, sign_of_life=NEVER), sweep=NEVER)
    total = len(ledger.blocks.all) + 120
    writing = asyncio.create_task(work(ledger, 120))

    async def steady() -> list[Block]:
        reader = await Reader.join(feed)
        while reader.position_sum < total:
            await reader.pull()
        return reader.blocks

    async def lagging() -> list[Block]:
        reader = await Reader.join(feed)
        while reader.position_sum < total:
            await ledger.blocks.reached(min(len(ledger.blocks.all) + 17, total))
            await reader.pull()
        return reader.blocks

    async def resuming() -> list[Block]:
        blocks: list[Block] = []
        positions: list[Position] = []
        while sum(each.height for each in positions) < total:
            reader = await Reader.join(feed, positions)
            for _ in range(random.randint(1, 3)):
                if reader.position_sum < total:
                    await reader.pull()
            reader.leave()
            blocks += reader.blocks
            positions = reader.positions
        return blocks

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
    patient = replace(FeedPolicy(), sign_of_life=NEVER)
    async with (
        Ledger(databases.url(database), writers=1, name="ledger-2") as second,
        notified(ledger, second),
    ):
        feeds = [
            await ledger.feed(patient, sweep=NEVER),
            await second.feed(patient, sweep=NEVER),
            await second.feed(replace(patient, recent_blocks=3), sweep=NEVER, own_blocks=False),
        ]
        readers = [await Reader.join(feed) for feed in feeds]
        total = len(ledger.blocks.all) + len(second.blocks.all) + 60
        writing = asyncio.gather(work(ledger, 40), work(second, 20))

        async def read(reader: Reader) -> None:
            while reader.position_sum < total:
                await reader.pull()

        async with asyncio.timeout(40):
            await asyncio.gather(*map(read, readers))
        await writing
        expected = by_place([*ledger.blocks.all, *second.blocks.all])
        assert len({block.chain for block in expected}) == 3
        for reader in readers:
            assert by_place(reader.blocks) == expected


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
