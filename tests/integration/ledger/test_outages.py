from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator

import asyncpg
import grpc
import pytest

from services.ledger.draft import Head
from services.ledger.session import Session
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import OPERATOR, Ledger, new_job, reason, until
from workmesh.chain import GENESIS
from workmesh.errors import MeshError
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.local.stack import Stack


async def end_session(ledger: Ledger, pid: int) -> None:
    """End a backend and wait until it is gone."""
    await ledger.sql("select pg_terminate_backend($1, 5000)", pid)


async def test_a_lost_commit_that_happened_is_answered_as_it_was(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backend commits and dies before its answer: the block is found, nothing is done twice."""
    commit = Session.commit
    lost: list[int] = []

    async def commit_and_lose(session: Session) -> None:
        await commit(session)
        if not lost:
            lost.append(session.pid)
            await end_session(own_ledger, session.pid)
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")

    monkeypatch.setattr(Session, "commit", commit_and_lose)
    job = new_job()
    result = (await own_ledger.create(job))[0]
    assert (result.job_id, result.existing, reason(result.status)) == (job.job_id, False, "")
    assert len(lost) == 1
    assert await own_ledger.types(job.job_id) == ["job_created"]
    told = [(block.chain, block.height) for block in own_ledger.blocks.seen]
    stored = await own_ledger.sql("select chain, height from blocks order by chain, height")
    assert sorted(told) == [tuple(row) for row in stored]


async def test_a_lost_commit_that_did_not_happen_is_written_again(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Session.commit
    lost: list[int] = []

    async def lose_and_commit(session: Session) -> None:
        if not lost:
            lost.append(session.pid)
            await end_session(own_ledger, session.pid)
        await commit(session)

    monkeypatch.setattr(Session, "commit", lose_and_commit)
    job = new_job()
    result = (await own_ledger.create(job))[0]
    assert (result.job_id, result.existing, reason(result.status)) == (job.job_id, False, "")
    assert len(lost) == 1
    assert await own_ledger.types(job.job_id) == ["job_created"]


async def test_sessions_that_end_at_any_moment_lose_and_double_nothing(own_ledger: Ledger) -> None:
    """Backends are ended while batches are under way: every answer is right, every chain whole."""
    jobs = [new_job() for _ in range(400)]
    stop = asyncio.Event()

    async def kill() -> None:
        while not stop.is_set():
            pids = [writer.pid for writer in own_ledger.all_writers if writer.pid]
            if pids:
                await own_ledger.sql("select pg_terminate_backend($1)", pids[0])
            await asyncio.sleep(0.03)

    killer = asyncio.create_task(kill())
    results = []
    for start in range(0, len(jobs), 20):
        results += await asyncio.gather(
            *(own_ledger.create(*jobs[place : place + 2]) for place in range(start, start + 20, 2))
        )
    stop.set()
    await killer
    answered = [result for group in results for result in group]
    assert [each.job_id for each in answered] == [job.job_id for job in jobs]
    assert {reason(each.status) for each in answered} == {""}
    rows = await own_ledger.sql(
        "select count(*), count(distinct job_id) from events where type = 'job_created'"
    )
    assert tuple(rows[0]) == (400, 400)


async def test_an_idle_writer_that_lost_its_session_comes_back_by_itself(own_ledger: Ledger) -> None:
    heads = [writer.head for writer in own_ledger.all_writers]
    for writer in own_ledger.all_writers:
        await end_session(own_ledger, writer.pid)
    await until(lambda: own_ledger.writers.owning == 2 and all(w.pid for w in own_ledger.all_writers))
    assert [writer.head for writer in own_ledger.all_writers] == heads


async def test_a_writer_whose_chain_went_on_without_it_begins_anew_from_the_head(own_ledger: Ledger) -> None:
    """Should ownership ever fail, the key of blocks forbids a fork, and the writer reads its head again."""
    for writer in own_ledger.all_writers:
        head = writer.head
        assert head is not None
        writer._head = Head(head.chain, head.timeline, 0, GENESIS)
    results = await own_ledger.create(new_job(), new_job())
    assert {reason(each.status) for each in results} == {""}


async def test_chains_are_taken_over_by_the_next_process(databases: Databases, database: str) -> None:
    async with Ledger(databases, database, name="first") as first:
        await first.define()
        await first.create(*(new_job() for _ in range(3)))
        chains = {writer.head.chain for writer in first.all_writers if writer.head}
    async with Ledger(databases, database, name="second") as second:
        assert {writer.head.chain for writer in second.all_writers if writer.head} == chains
        await second.create(new_job())
        await second.verify()
        opened = await second.sql("select count(*) from events where type = 'chain_opened'")
        assert opened[0][0] == len(chains)


async def test_two_processes_write_chains_of_their_own(databases: Databases, database: str) -> None:
    async with (
        Ledger(databases, database, name="first") as first,
        Ledger(databases, database, name="second") as second,
    ):
        await first.define()
        chains = [writer.head.chain for each in (first, second) for writer in each.all_writers if writer.head]
        assert len(set(chains)) == 4
        shared = new_job()
        await asyncio.gather(*(each.create(new_job(), shared) for each in (first, second)))
        await first.verify()
        assert (await first.counts())["jobs"] == 3


async def test_a_chain_of_another_timeline_is_left_closed(databases: Databases, database: str) -> None:
    async with Ledger(databases, database, writers=1) as first:
        old = first.all_writers[0].head
        # What a promotion looks like from the tables' side: the chain belongs to an older timeline.
        await first.sql("update chains set timeline = 0")
    async with Ledger(databases, database, writers=1) as second:
        new = second.all_writers[0].head
        assert old is not None
        assert new is not None
        assert new.chain != old.chain


async def test_a_row_locked_by_someone_else_is_unavailable_and_harms_no_neighbour(
    own_ledger: Ledger,
) -> None:
    locked, free = await own_ledger.running(), await own_ledger.running()
    connection = await asyncpg.connect(own_ledger.databases.url(own_ledger.database, "postgres"))
    for writer in own_ledger.all_writers:
        assert writer._session is not None
        await writer._session._connection.execute("set lock_timeout = '50ms'")
    try:
        async with connection.transaction():
            await connection.execute("select 1 from jobs where job_id = $1 for update", locked.job_id)
            jobs = [pb.CancelJob(job_id=each.job_id) for each in (locked, free)]
            response = await own_ledger.call("CancelJobs", jobs=jobs, actor=OPERATOR)
    finally:
        await connection.close()
    assert [reason(each.status) for each in response.results] == ["DEPENDENCY_DOWN", ""]


@pytest.fixture
def mortal() -> Iterator[Databases]:
    """A PostgreSQL that the test may kill; its supervisor starts it again."""
    stack = Stack(only=("postgres",))
    asyncio.run(stack.start())
    try:
        databases = Databases(stack)
        asyncio.run(databases.prepare())
        yield databases
    finally:
        asyncio.run(stack.stop())


@pytest.fixture
async def mortal_ledger(mortal: Databases) -> AsyncIterator[Ledger]:
    async with Ledger(mortal, await mortal.create(), patience=0.3) as opened:
        await opened.define()
        yield opened


async def test_calls_are_unavailable_while_the_database_is_away_and_work_when_it_is_back(
    mortal_ledger: Ledger,
) -> None:
    stack = mortal_ledger.databases.stack
    before = new_job()
    await mortal_ledger.create(before)
    await stack.stop_process("postgres")
    with pytest.raises(MeshError) as away:
        await mortal_ledger.create(new_job())
    assert away.value.code is grpc.StatusCode.UNAVAILABLE
    assert away.value.reason == "DEPENDENCY_DOWN"
    assert away.value.retry_after is not None
    assert mortal_ledger.writers.owning == 0
    await stack.start_process("postgres")
    await until(lambda: mortal_ledger.writers.owning == 2)
    after = new_job()
    results = await mortal_ledger.create(before, after)
    assert [each.existing for each in results] == [True, False]


async def test_a_killed_database_loses_nothing_that_was_answered(mortal_ledger: Ledger) -> None:
    stack = mortal_ledger.databases.stack
    answered: list[str] = []
    stop = asyncio.Event()

    async def submit() -> None:
        while not stop.is_set():
            job = new_job()
            while True:
                try:
                    result = (await mortal_ledger.create(job))[0]
                except MeshError as error:
                    assert error.code is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                    await asyncio.sleep(0.05)
                    continue
                answered.append(result.job_id)
                break

    async def more(count: int) -> None:
        enough = len(answered) + count
        await until(lambda: len(answered) >= enough)

    workers = [asyncio.create_task(submit()) for _ in range(8)]
    for _ in range(2):
        await more(50)
        stack.kill("postgres", signal.SIGKILL)
        await stack.wait_ready("postgres")
    await more(50)
    stop.set()
    await asyncio.gather(*workers)
    connection = await asyncpg.connect(mortal_ledger.databases.url(mortal_ledger.database, "postgres"))
    mortal_ledger._superuser = connection
    rows = await mortal_ledger.sql("select job_id::text from jobs")
    assert sorted(answered) == sorted(row[0] for row in rows)
    assert len(set(answered)) == len(answered)
    await mortal_ledger.verify()
