"""A real PostgreSQL for the session, a fresh database for each test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from services.ledger.writer import Writer
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import CarefulWriter, Ledger
from workmesh.local.stack import Stack


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    stack = Stack(only=("postgres",))
    asyncio.run(stack.start())
    try:
        made = Databases(stack)
        asyncio.run(made.prepare())
        yield made
    finally:
        asyncio.run(stack.stop())


@pytest.fixture(scope="session")
def shared_database(databases: Databases) -> str:
    """The name of a database that tests share, each with jobs of its own."""
    return asyncio.run(databases.create())


@pytest.fixture
async def database(databases: Databases) -> AsyncIterator[str]:
    """The name of an empty, migrated database."""
    name = await databases.create()
    yield name
    await databases.drop(name)


@pytest.fixture(params=[Writer, CarefulWriter], ids=["plain", "careful"])
async def ledger(
    databases: Databases, shared_database: str, request: pytest.FixtureRequest
) -> AsyncIterator[Ledger]:
    """A ledger whose log is verified after the test: once on the plain way, once all careful."""
    async with Ledger(databases, shared_database, make_writer=request.param, writers=1) as opened:
        await opened.define(tools=["erp.post_order", "carrier.*"])
        yield opened
        await opened.verify()


@pytest.fixture
async def own_ledger(databases: Databases, database: str) -> AsyncIterator[Ledger]:
    """A ledger as it runs, on a database of its own, its log verified after the test."""
    async with Ledger(databases, database) as opened:
        await opened.define(tools=["erp.post_order", "carrier.*"])
        yield opened
        await opened.verify()
