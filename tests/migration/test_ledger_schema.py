from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from services.ledger import migrations
from services.ledger.migrations import Migration, MigrationError, load, migrate
from workmesh.local.stack import Stack

SCHEMA = Path(migrations.__file__).parent / "sql" / "schema.sql"

# What a catalog says of a database, the bookkeeping of migrations aside.
QUERIES = {
    "columns": """
        select table_name, column_name, ordinal_position, data_type, collation_name, is_nullable,
            column_default, is_generated, generation_expression
        from information_schema.columns
        where table_schema = 'public' and table_name <> 'migrations'
        order by table_name, ordinal_position""",
    "constraints": """
        select conrelid::regclass::text as relation, conname, pg_get_constraintdef(oid) as definition
        from pg_constraint
        where connamespace = 'public'::regnamespace and conrelid::regclass::text <> 'migrations'
        order by 1, 2""",
    "indexes": """
        select tablename, indexname, indexdef from pg_indexes
        where schemaname = 'public' and tablename <> 'migrations' order by 1, 2""",
    "triggers": """
        select tgrelid::regclass::text as relation, tgname, tgenabled, pg_get_triggerdef(oid) as definition
        from pg_trigger where not tgisinternal order by 1, 2""",
    "functions": """
        select proname, prosrc from pg_proc where pronamespace = 'public'::regnamespace order by 1""",
    "table rights": """
        select table_name, grantee, privilege_type from information_schema.table_privileges
        where table_schema = 'public' and table_name <> 'migrations' order by 1, 2, 3""",
    "column rights": """
        select table_name, column_name, grantee, privilege_type from information_schema.column_privileges
        where table_schema = 'public' and table_name <> 'migrations' order by 1, 2, 3, 4""",
    "options": """
        select relname, reloptions from pg_class
        where relnamespace = 'public'::regnamespace and relname not like 'migrations%' order by 1""",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack(only=("postgres",))
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


async def make_database(stack: Stack, name: str) -> asyncpg.Connection:
    superuser = await asyncpg.connect(stack.database_url("postgres"))
    await superuser.execute(f"create database {name} owner workmesh")
    await superuser.close()
    return await asyncpg.connect(stack.database_url().replace("/workmesh?", f"/{name}?"))


async def test_the_schema_is_what_the_migrations_make(stack: Stack) -> None:
    migrated = await make_database(stack, "migrated")
    written = await make_database(stack, "written")
    await migrate(migrated)
    await written.execute(SCHEMA.read_text())
    for name, query in QUERIES.items():
        made, expected = [[tuple(row) for row in await each.fetch(query)] for each in (migrated, written)]
        assert made == expected, name
        assert made, f"{name} compared nothing"
    await migrated.close()
    await written.close()


async def test_migrating_again_does_nothing_and_two_at_once_do_it_once(stack: Stack) -> None:
    first = await make_database(stack, "twice")
    second = await asyncpg.connect(stack.database_url().replace("/workmesh?", "/twice?"))
    applied = await asyncio.gather(migrate(first), migrate(second))
    names = [each.name for each in load()]
    assert sorted(applied, key=len) == [[], names]
    assert await migrate(first) == []
    await first.close()
    await second.close()


async def test_a_migration_that_fails_leaves_nothing(stack: Stack) -> None:
    connection = await make_database(stack, "failing")
    broken = Migration(1, "0001_broken", "create table half (a int); select 1 / 0", "x")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, [broken])
    assert await connection.fetchval("select to_regclass('half')") is None
    assert await connection.fetchval("select count(*) from migrations") == 0
    await connection.close()


async def test_a_changed_migration_is_refused(stack: Stack) -> None:
    connection = await make_database(stack, "changed")
    await migrate(connection, [Migration(1, "0001_a", "create table a (a int)", "first")])
    with pytest.raises(MigrationError, match="0001_a was changed"):
        await migrate(connection, [Migration(1, "0001_a", "create table b (a int)", "second")])
    await connection.close()
