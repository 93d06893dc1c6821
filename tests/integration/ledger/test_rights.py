from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.ledger.database import Role, connect
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import Ledger, new_job

HISTORY = {"blocks": "height", "events": "seq", "definitions": "version"}
OTHERS = ("chains", "job_bodies", "steps", "state_versions", "jobs", "state_documents", "effects", "cursors")
NOT_ALLOWED = asyncpg.InsufficientPrivilegeError


@pytest.fixture
async def url(databases: Databases, shared_database: str) -> AsyncIterator[str]:
    """The owner's URL of a database with some history."""
    async with Ledger(databases, shared_database, writers=1) as ledger:
        await ledger.define()
        await ledger.create(new_job())
        yield databases.url(shared_database)


async def connect_as(url: str, role: Role | str) -> asyncpg.Connection:
    """Connect under a role of the service, or as one that logs in."""
    if isinstance(role, Role):
        return await connect(url, role, "test")
    return await asyncpg.connect(url.replace("//workmesh@", f"//{role}@"))


@pytest.mark.parametrize("login", ["workmesh", "postgres"])
async def test_nobody_changes_history(url: str, login: str) -> None:
    """Not the tables' owner, and no superuser by an ordinary statement, even in replication's role."""
    connection = await connect_as(url, login)
    if login == "postgres":
        await connection.execute("set session_replication_role = replica")
    for table, column in HISTORY.items():
        before = await connection.fetchval(f"select count(*) from {table}")  # noqa: S608
        for statement in (f"update {table} set {column} = 1", f"delete from {table}", f"truncate {table}"):  # noqa: S608
            with pytest.raises(NOT_ALLOWED, match="append-only"):
                await connection.execute(statement)
        assert await connection.fetchval(f"select count(*) from {table}") == before > 0  # noqa: S608
    await connection.close()


@pytest.mark.parametrize("role", list(Role))
async def test_no_role_of_the_service_deletes(url: str, role: Role) -> None:
    connection = await connect_as(url, role)
    assert await connection.fetchval("select current_user") == role.value
    assert not await connection.fetchval("select rolsuper from pg_roles where rolname = current_user")
    for table in (*HISTORY, *OTHERS):
        for statement in (f"delete from {table}", f"truncate {table}", f"drop table {table}"):  # noqa: S608
            with pytest.raises(NOT_ALLOWED):
                await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update jobs set client_id = 'other'",
        "update jobs set request_digest = ''",
        "update job_bodies set body = ''",
        "update steps set result = ''",
        "update state_versions set body = ''",
        "update effects set arguments_digest = ''",
        "create table more (a int)",
        "alter table events disable trigger events_append_only",
        "set session_replication_role = replica",
    ],
)
async def test_the_writer_changes_only_what_is_to_change(url: str, statement: str) -> None:
    connection = await connect_as(url, Role.WRITER)
    with pytest.raises(NOT_ALLOWED):
        await connection.execute(statement)
    await connection.close()


@pytest.mark.parametrize(
    ("role", "allowed", "refused"),
    [
        (Role.READER, ("jobs", "job_bodies", "steps", "events", "state_versions"), ("cursors", "singletons")),
        (Role.FEED, ("blocks", "events", "cursors"), ("jobs", "job_bodies", "steps", "state_versions")),
        (Role.AUDITOR, ("blocks", "events", "job_bodies", "steps"), ("singletons", "cursors")),
    ],
)
async def test_readers_read_what_they_need_and_write_nothing(
    url: str, role: Role, allowed: tuple[str, ...], refused: tuple[str, ...]
) -> None:
    connection = await connect_as(url, role)
    for table in allowed:
        await connection.fetch(f"select * from {table} limit 1")  # noqa: S608
        with pytest.raises(NOT_ALLOWED):
            await connection.execute(f"insert into {table} default values")
    for table in refused:
        with pytest.raises(NOT_ALLOWED):
            await connection.fetch(f"select * from {table}")  # noqa: S608
    await connection.close()
