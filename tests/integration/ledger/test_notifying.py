from __future__ import annotations

import asyncio

import asyncpg

from services.ledger.database import BLOCKS_CHANNEL, Role, open_pool
from services.ledger.notifier import Notifier
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import Ledger, until
from workmesh.ledger.v1.block_pb2 import Block


async def heard_by(databases: Databases, database: str, heard: list[str]) -> asyncpg.Connection:
    connection = await asyncpg.connect(databases.url(database))
    await connection.add_listener(BLOCKS_CHANNEL, lambda *notification: heard.append(str(notification[-1])))
    return connection


async def test_other_processes_are_told_of_blocks(databases: Databases, database: str) -> None:
    heard: list[str] = []
    async with (
        Ledger(databases, database, name="first", writers=1) as first,
        Ledger(databases, database, name="second", writers=1),
    ):
        listener = await heard_by(databases, database, heard)
        pool = await open_pool(databases.url(database), Role.WRITER, "test", 1)
        notifier = Notifier(pool, "first", lambda: first.writers.backends)
        running = asyncio.create_task(notifier.run())
        for _ in range(5):
            notifier.committed(Block())
        await until(lambda: len(heard) > 0)
        running.cancel()
        pool.terminate()
        await listener.close()
    assert heard == ["first"]


async def test_a_process_that_is_alone_tells_nobody(databases: Databases, database: str) -> None:
    heard: list[str] = []
    async with Ledger(databases, database, writers=2) as alone:
        listener = await heard_by(databases, database, heard)
        pool = await open_pool(databases.url(database), Role.WRITER, "test", 1)
        notifier = Notifier(pool, "alone", lambda: alone.writers.backends)
        await notifier._tell()
        # Notifications arrive in order: this one would come after the process's own.
        await pool.execute("select pg_notify($1, 'fence')", BLOCKS_CHANNEL)
        await until(lambda: len(heard) > 0)
        pool.terminate()
        await listener.close()
    assert heard == ["fence"]
