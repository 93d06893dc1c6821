from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg
import pytest

from services.ledger import plain_path
from services.ledger.draft import Draft
from services.ledger.items import Commit
from tests.integration.ledger.course import run_course
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import Ledger, new_job, reason, state, step, until
from workmesh.errors import MeshError, from_status
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb


async def test_a_batch_is_one_transaction_and_one_block(own_ledger: Ledger) -> None:
    before = len(own_ledger.blocks.seen)
    await own_ledger.create(*(new_job() for _ in range(256)))
    block = own_ledger.blocks.seen[-1]
    assert len(own_ledger.blocks.seen) == before + 1
    assert block.event_count == len(block.events) == 256


async def test_no_block_is_larger_than_the_feed_can_carry(own_ledger: Ledger) -> None:
    jobs = [new_job() for _ in range(400)]
    for job in jobs:
        job.labels.update({f"label-{number}": "\N{GRINNING FACE}" * 256 for number in range(16)})
    results = await asyncio.gather(*(own_ledger.create(job) for job in jobs))
    assert {reason(each[0].status) for each in results} == {""}
    assert max(block.ByteSize() for block in own_ledger.blocks.seen) < 4 << 20


async def test_concurrent_callers_share_blocks(own_ledger: Ledger) -> None:
    await own_ledger.create(new_job())
    before = len(own_ledger.blocks.seen)
    results = await asyncio.gather(*(own_ledger.create(new_job()) for _ in range(100)))
    assert {reason(each[0].status) for each in results} == {""}
    assert len(own_ledger.blocks.seen) - before <= 3


async def test_every_block_is_told_once_and_in_the_order_of_its_chain(own_ledger: Ledger) -> None:
    for _ in range(5):
        await asyncio.gather(*(own_ledger.create(new_job()) for _ in range(20)))
    told = [(block.chain, block.height) for block in own_ledger.blocks.seen]
    stored = await own_ledger.sql("select chain, height from blocks order by chain, height")
    assert sorted(told) == [tuple(row) for row in stored]
    for chain in {chain for chain, _ in told}:
        heights = [height for each, height in told if each == chain]
        assert heights == sorted(heights)


@pytest.mark.parametrize("count", [0, 257])
async def test_a_batch_of_a_wrong_size_is_refused_as_a_whole(own_ledger: Ledger, count: int) -> None:
    with pytest.raises(MeshError, match="INVALID_FIELD"):
        await own_ledger.create(*(new_job() for _ in range(count)))
    assert (await own_ledger.counts())["jobs"] == 0


async def test_one_malformed_item_of_256_harms_none_of_the_others(own_ledger: Ledger) -> None:
    jobs = [new_job() for _ in range(256)]
    jobs[77].input = b"not json"
    results = await own_ledger.create(*jobs)
    assert [place for place, each in enumerate(results) if each.status.code] == [77]
    assert from_status(results[77].status).violations[0].field == "jobs[77].input"
    assert (await own_ledger.counts())["jobs"] == 255


async def test_one_item_that_breaks_its_transaction_fails_alone(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [new_job() for _ in range(256)]
    add_body = Draft.add_body

    def poisoned(draft: Draft, job_id: str, kind: str, body: bytes) -> None:
        # A kind that a constraint refuses: what a bug of ours would look like.
        add_body(draft, job_id, "poison" if job_id == jobs[200].job_id else kind, body)

    monkeypatch.setattr(Draft, "add_body", poisoned)
    results = await own_ledger.create(*jobs)
    assert [place for place, each in enumerate(results) if each.status.code] == [200]
    status = from_status(results[200].status)
    assert (status.reason, status.message) == ("INTERNAL", "internal error")
    assert (await own_ledger.counts())["jobs"] == 255
    failed = [record for record in caplog.records if getattr(record, "action", "") == "item_failed"]
    assert len(failed) == 1
    assert failed[0].exc_info is not None


async def test_an_item_that_only_the_plain_way_cannot_take_is_not_lost(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("the plain way is broken")

    monkeypatch.setattr(plain_path, "create", broken)
    results = await own_ledger.create(new_job(), new_job())
    assert [reason(each.status) for each in results] == ["", ""]


async def test_two_writers_bring_a_crowd_of_attempts_to_one_end_each(own_ledger: Ledger) -> None:
    """Several instances take up the same offers at one time; each job is granted once and ends once."""
    jobs = [each.job_id for each in await own_ledger.create(*(new_job() for _ in range(60)))]

    async def instance(name: str) -> int:
        offers = [pb.BeginAttempt(job_id=job, dispatch=1, lease_id=uuid7()) for job in jobs]
        random.shuffle(offers)
        grants: list[pb.AttemptGrant] = []
        for start in range(0, len(offers), 10):
            response = await own_ledger.call(
                "BeginAttempts", attempts=offers[start : start + 10], instance=name
            )
            grants += [each.grant for each in response.results if each.HasField("grant")]
        commits = [
            pb.CommitAttempt(
                attempt=pb.AttemptRef(job_id=grant.job.job_id, epoch=grant.job.epoch),
                output=b"{}",
                steps=[step("1")],
                state_writes=[state(f"K{place % 3}", place)],
            )
            for place, grant in enumerate(grants)
        ]
        if commits:
            response = await own_ledger.call("CommitAttempts", attempts=commits, instance=name)
            assert {reason(each.status) for each in response.results} == {""}
        return len(grants)

    granted = await asyncio.gather(*(instance(f"agent-{number}") for number in range(6)))
    assert sum(granted) == 60
    rows = await own_ledger.sql("select count(*) from events where type = 'job_succeeded'")
    assert rows[0][0] == 60
    versions = await own_ledger.sql(
        "select key, count(*) as versions, max(version) as newest from state_versions group by key"
    )
    assert all(row["versions"] == row["newest"] for row in versions)
    current = await own_ledger.sql("select sum(version) from state_documents")
    assert current[0][0] == 60


async def test_writers_that_race_for_a_new_document_both_get_a_version(own_ledger: Ledger) -> None:
    for number in range(10):
        attempts = [await own_ledger.running() for _ in range(2)]
        items = [
            Commit(each.job_id, each.epoch, b"{}", (), (state(f"race-{number}", place),), "agent-1", 1)
            for place, each in enumerate(attempts)
        ]
        await asyncio.gather(*(own_ledger.writers.write([item]) for item in items))
    rows = await own_ledger.sql("select version from state_documents where key like 'race-%'")
    assert [row[0] for row in rows] == [2] * 10


async def test_a_deadlock_is_tried_again(own_ledger: Ledger) -> None:
    """Two transactions lock two jobs in opposite order: one of the two is the batch's."""
    first, second = await own_ledger.running(), await own_ledger.running()
    low, high = sorted([first.job_id, second.job_id])
    other = await asyncpg.connect(own_ledger.databases.url(own_ledger.database, "postgres"))
    try:
        await other.execute("set deadlock_timeout = '10s'")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select 1 from jobs where job_id = $1 for update", high)
        commits = [pb.CommitAttempt(attempt=each, output=b"{}") for each in (first, second)]
        batch = asyncio.create_task(own_ledger.call("CommitAttempts", attempts=commits, instance="agent-1"))
        await until(lambda: _is_locked(own_ledger, low))
        await other.execute("select 1 from jobs where job_id = $1 for update", low)
        await transaction.rollback()
        response = await batch
    finally:
        await other.close()
    assert [reason(each.status) for each in response.results] == ["", ""]


async def _is_locked(ledger: Ledger, job_id: str) -> bool:
    return not await ledger.sql("select 1 from jobs where job_id = $1 for update skip locked", job_id)


async def test_both_ways_write_the_same(databases: Databases) -> None:
    """One random course of many jobs, once on the plain way and once all careful, ends alike."""
    assert await run_course(databases, careful=False) == await run_course(databases, careful=True)
