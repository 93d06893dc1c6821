"""A real PostgreSQL for the session, and a fresh, migrated database for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from tests.integration.ledger_reads.databases import Databases
from tests.integration.ledger_reads.mesh import Ledger
from tests.integration.ledger_reads.served import Served, serve
from workmesh.local.stack import Stack

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    stack = Stack(only=("postgres",))
    asyncio.run(stack.start())
    try:
        made = Databases(stack.database_url(), stack.database_url("postgres"))
        asyncio.run(made.prepare())
        yield made
    finally:
        asyncio.run(stack.stop())


@pytest.fixture
async def database(databases: Databases) -> AsyncIterator[str]:
    """The name of an empty database with the ledger's tables."""
    name = f"reads_{next(_numbers)}"
    await databases.create(name)
    yield name
    await databases.drop(name)


@pytest.fixture
async def ledger(databases: Databases, database: str) -> AsyncIterator[Ledger]:
    """Two writers on the database, and pools for its readers."""
    async with Ledger(databases.url(database)) as opened:
        yield opened


@pytest.fixture
async def superuser(databases: Databases, database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that may do anything to the database."""
    connection = await asyncpg.connect(databases.superuser_url(database))
    yield connection
    await connection.close()


@pytest.fixture
async def served(ledger: Ledger) -> AsyncIterator[Served]:
    """The ledger's reading services."""
    async with serve(ledger) as serving:
        yield serving
