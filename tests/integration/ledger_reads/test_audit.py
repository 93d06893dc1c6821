from __future__ import annotations

import asyncio

import asyncpg
import grpc
import pytest

from tests.integration.ledger_reads.mesh import Ledger
from tests.integration.ledger_reads.served import Served, refused
from tests.integration.ledger_reads.tampering import (
    DELETE_BLOCK,
    DELETE_EVENTS,
    grow,
    history_of,
    tamper,
    worked,
)
from workmesh.ledger.v1 import audit_service_pb2 as pb
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.event_pb2 import Event
from workmesh.ledger.v1.feed_service_pb2 import GetHeadsRequest


async def verify(served: Served, *chains: int) -> pb.VerifyChainsResponse:
    """Return the verdict; what comes before it is progress that grows."""
    counts = []
    last = pb.VerifyChainsResponse()
    async for last in served.audit.VerifyChains(pb.VerifyChainsRequest(chains=chains), timeout=30):
        counts.append((last.block_count, last.event_count))
        assert last.finished or not (last.faults or last.heads)
    assert last.finished
    assert counts == sorted(counts)
    return last


def places(verdict: pb.VerifyChainsResponse) -> list[tuple[int, int, int, int]]:
    return [(fault.chain, fault.height, fault.index, fault.kind) for fault in verdict.faults]


async def test_an_untouched_log_holds(ledger: Ledger, served: Served) -> None:
    await worked(ledger)
    verdict = await verify(served)
    assert not verdict.faults
    assert verdict.block_count == len(ledger.blocks.all)
    assert verdict.event_count == sum(len(block.events) for block in ledger.blocks.all)
    heads = (await served.feed.GetHeads(GetHeadsRequest(), timeout=5)).heads
    assert list(verdict.heads) == list(heads)


async def test_a_log_of_many_pages_holds_while_it_grows(ledger: Ledger, served: Served) -> None:
    for _ in range(8):
        await ledger.run(200)
    writing = asyncio.create_task(grow(ledger))
    verdicts = [await verify(served) for _ in range(3)]
    await writing
    assert [list(verdict.faults) for verdict in verdicts] == [[], [], []]
    assert verdicts[0].event_count >= 4_800


HEADER_CHANGES = {
    "prev_hash": ("sha256('x')", ChainFault.KIND_BROKEN_LINK),
    "merkle_root": ("sha256('x')", ChainFault.KIND_WRONG_ROOT),
    "hash": ("sha256('x')", ChainFault.KIND_WRONG_HASH),
    "time_micros": ("time_micros + 1", ChainFault.KIND_WRONG_HASH),
    "timeline": ("timeline + 1", ChainFault.KIND_WRONG_HASH),
    "event_count": ("event_count + 1", ChainFault.KIND_WRONG_COUNT),
}


@pytest.mark.parametrize("column", HEADER_CHANGES)
async def test_a_changed_header_is_found_at_its_block_alone(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection, column: str
) -> None:
    chain, height, _ = (await worked(ledger)).place("attempt_begun")
    value, kind = HEADER_CHANGES[column]
    statement = f"update blocks set {column} = {value} where chain = $1 and height = $2"  # noqa: S608
    await tamper(superuser, statement, chain, height)
    assert places(await verify(served)) == [(chain, height, -1, kind)]


EVENT_CHANGES = {
    "type": "'job_failed'",
    "client_id": "'client-b'",
    "time_micros": "time_micros + 1",
    "index": "index + 5",
}


@pytest.mark.parametrize("column", EVENT_CHANGES)
async def test_a_column_that_disagrees_with_its_event_is_found_at_the_event(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection, column: str
) -> None:
    chain, height, index = (await worked(ledger)).place("steps_recorded")
    statement = (
        f"update events set {column} = {EVENT_CHANGES[column]} "  # noqa: S608
        "where chain = $1 and height = $2 and index = $3"
    )
    await tamper(superuser, statement, chain, height, index)
    verdict = await verify(served)
    assert places(verdict) == [(chain, height, index, ChainFault.KIND_WRONG_EVENT)]
    assert verdict.faults[0].description.endswith(f"of {column}")


async def test_changed_bytes_of_an_event_are_found_at_their_block_and_index(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    history = await worked(ledger)
    chain, height, index = history.place("attempt_begun")
    body = await superuser.fetchval(
        "select body from events where chain = $1 and height = $2 and index = $3", chain, height, index
    )
    event = Event.FromString(body)
    event.actor.instance = "somebody-else"
    statement = "update events set body = $4 where chain = $1 and height = $2 and index = $3"
    await tamper(superuser, statement, chain, height, index, event.SerializeToString())
    assert places(await verify(served)) == [(chain, height, -1, ChainFault.KIND_WRONG_ROOT)]
    event.client_id = "somebody-else"
    await tamper(superuser, statement, chain, height, index, event.SerializeToString())
    assert places(await verify(served)) == [
        (chain, height, -1, ChainFault.KIND_WRONG_ROOT),
        (chain, height, index, ChainFault.KIND_WRONG_EVENT),
    ]
    await tamper(superuser, statement, chain, height, index, b"\xff\xff")
    assert (chain, height, index, ChainFault.KIND_WRONG_EVENT) in places(await verify(served))


async def test_a_deleted_event_is_found_at_its_block(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    history = await worked(ledger)
    chain, height, index = history.place("steps_recorded")
    statement = "delete from events where chain = $1 and height = $2 and index = $3"
    await tamper(superuser, statement, chain, height, index)
    verdict = await verify(served)
    assert places(verdict)[0] == (chain, height, -1, ChainFault.KIND_WRONG_COUNT)
    assert any("lacks its event 3" in fault.description for fault in verdict.faults)


async def test_an_added_event_is_found_at_its_block(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    history = await worked(ledger)
    chain, height, _ = history.place("attempt_begun")
    statement = """
        insert into events (chain, height, index, seq, type, client_id, time_micros, body)
        values ($1, $2, 99, 0, 'chain_opened', '', 0, '')
    """
    await tamper(superuser, statement, chain, height)
    assert places(await verify(served))[0] == (chain, height, -1, ChainFault.KIND_WRONG_COUNT)


@pytest.mark.parametrize("events_too", [False, True], ids=["block alone", "with its events"])
async def test_a_deleted_block_is_missed_at_its_height(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection, events_too: bool
) -> None:
    history = await worked(ledger)
    chain, height, _ = history.place("steps_recorded")
    await tamper(superuser, DELETE_BLOCK, chain, height)
    if events_too:
        await tamper(superuser, DELETE_EVENTS, chain, height)
    found = places(await verify(served))
    assert found[0] == (chain, height, -1, ChainFault.KIND_MISSING_BLOCK)


async def test_a_newest_block_deleted_without_its_events_is_missed(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await worked(ledger)
    newest = ledger.blocks.all[-1]
    await tamper(superuser, DELETE_BLOCK, newest.chain, newest.height)
    fault = (newest.chain, newest.height, -1, ChainFault.KIND_MISSING_BLOCK)
    assert places(await verify(served)) == [fault]


async def test_a_newest_block_deleted_with_its_events_is_told_by_the_jobs(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await worked(ledger)
    newest = ledger.blocks.all[-1]
    for statement in (DELETE_EVENTS, DELETE_BLOCK):
        await tamper(superuser, statement, newest.chain, newest.height)
    verdict = await verify(served)
    jobs = {Event.FromString(data).job_id for data in newest.events}
    assert {fault.description for fault in verdict.faults} == {
        f"job {job_id} lacks its event 3" for job_id in jobs
    }


async def test_a_chain_without_blocks_is_missed_at_its_first(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await tamper(superuser, "delete from blocks where chain = 2")
    assert places(await verify(served)) == [
        (2, 1, -1, ChainFault.KIND_MISSING_BLOCK),
        (2, 1, -1, ChainFault.KIND_MISSING_BLOCK),
    ]


async def test_a_job_without_any_event_is_told(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await worked(ledger)
    (job_id,) = await ledger.create()
    newest = ledger.blocks.all[-1]
    for statement in (DELETE_EVENTS, DELETE_BLOCK):
        await tamper(superuser, statement, newest.chain, newest.height)
    verdict = await verify(served)
    assert [fault.description for fault in verdict.faults] == [f"job {job_id} lacks its event 1"]
    assert not (await verify(served, newest.chain)).faults


BODY_CHANGES = {
    "input": ("update job_bodies set body = '{}' where job_id = $1 and kind = 'input'", "job_created"),
    "output": ("update job_bodies set body = '{}' where job_id = $1 and kind = 'output'", "job_succeeded"),
    "result of a step": ("update steps set result = '{}' where job_id = $1 and step = '2'", "steps_recorded"),
    "result of the last step": (
        "update steps set result = '{}' where job_id = $1 and step = '3'",
        "job_succeeded",
    ),
    "digest of a step": (
        "update steps set outcome_digest = sha256('x') where job_id = $1 and step = '1'",
        "steps_recorded",
    ),
    "arguments of a step": (
        "update steps set arguments_digest = sha256('x') where job_id = $1 and step = '1'",
        "steps_recorded",
    ),
    "document": ("update state_versions set body = '{}' where job_id = $1", "state_written"),
    "effect": ("update effects set result = '{}' where job_id = $1", "effect_settled"),
}


@pytest.mark.parametrize("body", BODY_CHANGES)
async def test_a_changed_body_is_found_at_the_event_that_vouches_for_it(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection, body: str
) -> None:
    history = await worked(ledger)
    statement, type_ = BODY_CHANGES[body]
    await tamper(superuser, statement, history.job_id)
    verdict = await verify(served)
    assert places(verdict) == [(*history.place(type_), ChainFault.KIND_WRONG_BODY)]
    assert history.job_id in verdict.faults[0].description or body == "document"


async def test_a_changed_definition_is_found_at_its_event(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await worked(ledger)
    chain, height, index = history_of(ledger.blocks.all, "").place("definition_applied")
    body = await superuser.fetchval("select body from definitions")
    changed = body.replace(b"booking", b"cooking", 1)
    await tamper(superuser, "update definitions set body = $1", changed)
    assert places(await verify(served)) == [(chain, height, index, ChainFault.KIND_WRONG_BODY)]


async def test_erased_bodies_leave_the_log_whole(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    await worked(ledger)
    await superuser.execute("delete from job_bodies")
    await superuser.execute("delete from state_versions")
    await superuser.execute("update steps set result = null, error = null")
    await superuser.execute("update effects set result = null")
    assert not (await verify(served)).faults


async def test_a_job_that_claims_more_events_than_it_has_is_told(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    history = await worked(ledger)
    await superuser.execute("update jobs set seq = seq + 2 where job_id = $1", history.job_id)
    verdict = await verify(served)
    last = len(history.events)
    assert [fault.description for fault in verdict.faults] == [
        f"job {history.job_id} lacks its events {last + 1} to {last + 2}"
    ]
    assert places(verdict)[0][:3] == history.events[-1][1:]


async def test_faults_on_several_chains_are_told_the_first_of_each_first(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    async def half() -> None:
        for _ in range(4):
            await ledger.create()

    await asyncio.gather(half(), half())
    assert {block.chain for block in ledger.blocks.all if block.height > 2} == {1, 2}
    await tamper(superuser, "update blocks set time_micros = 0 where height in (2, 3)")
    expected = [(1, 2), (2, 2), (1, 3), (2, 3)]
    assert [(fault.chain, fault.height) for fault in (await verify(served)).faults] == expected
    only = await verify(served, 2)
    assert [(fault.chain, fault.height) for fault in only.faults] == [(2, 2), (2, 3)]
    assert [head.chain for head in only.heads] == [2]


async def test_a_chain_that_nobody_ever_opened_is_missed_and_a_wrong_number_refused(
    ledger: Ledger, served: Served
) -> None:
    assert places(await verify(served, 99)) == [(99, 1, -1, ChainFault.KIND_MISSING_BLOCK)]
    error = await refused(served.audit.VerifyChains(pb.VerifyChainsRequest(chains=[1, 0]), timeout=5).read())
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "chains[1]")
