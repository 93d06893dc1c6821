"""Reads of the database with a deadline each, and snapshots; driver errors become the mesh's here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol, TypeAlias

import asyncpg

from services.ledger.database import STATEMENT_SECONDS, is_outage
from workmesh import errors

RETRY_AFTER: Final = 0.5

IDLE_SECONDS: Final = 60.0
"""How long a snapshot may wait for its reader's peer: longer, and its connection is closed."""

_BOUND_SNAPSHOT: Final = """
select
    set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $2, true)
"""

Row: TypeAlias = "asyncpg.Record"


class Fetch(Protocol):
    """Runs a statement and returns its rows: on any connection of a pool, or in a snapshot."""

    async def __call__(self, statement: str, *arguments: Any, seconds: float = ...) -> list[Row]: ...


class Snapshot:
    """A read-only transaction in which every statement sees the database as it was at the first one."""

    def __init__(self, connection: asyncpg.pool.PoolConnectionProxy) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any, seconds: float = STATEMENT_SECONDS) -> list[Row]:
        """Return all rows of a statement."""
        with told_as_mesh_errors():
            rows: list[Row] = await self._connection.fetch(statement, *arguments, timeout=seconds)
            return rows

    async def pages(
        self, statement: str, *arguments: Any, size: int, seconds: float = STATEMENT_SECONDS
    ) -> AsyncGenerator[list[Row], None]:
        """Yield the rows of a statement through a cursor, `size` at a time, each page within its deadline."""
        with told_as_mesh_errors():
            cursor = await self._connection.cursor(statement, *arguments, timeout=seconds)
            while rows := await cursor.fetch(size, timeout=seconds):
                yield rows


class ReadPool:
    """A pool whose connections have one of the ledger's reading roles."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def fetch(self, statement: str, *arguments: Any, seconds: float = STATEMENT_SECONDS) -> list[Row]:
        """Return all rows of a statement; so many seconds at most for a connection, and for the statement."""
        with told_as_mesh_errors():
            async with self._pool.acquire(timeout=seconds) as connection:
                rows: list[Row] = await connection.fetch(statement, *arguments, timeout=seconds)
                return rows

    @asynccontextmanager
    async def snapshot(self, seconds: float = STATEMENT_SECONDS) -> AsyncIterator[Snapshot]:
        """Enter a REPEATABLE READ, read-only transaction; each of its statements may take that long."""
        with told_as_mesh_errors():
            async with (
                self._pool.acquire(timeout=STATEMENT_SECONDS) as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                limit = str(round(seconds * 1000))
                await connection.fetch(_BOUND_SNAPSHOT, limit, str(round(IDLE_SECONDS * 1000)))
                yield Snapshot(connection)


@contextmanager
def told_as_mesh_errors() -> Iterator[None]:
    """Raise DEADLINE_EXCEEDED for a slow read, UNAVAILABLE for a database that does not answer."""
    try:
        yield
    except errors.MeshError:
        raise
    except (TimeoutError, asyncpg.QueryCanceledError) as error:
        raise errors.deadline_exceeded("the database took too long to answer") from error
    except Exception as error:
        if is_outage(error):
            message = "the database does not answer"
            raise errors.unavailable("DEPENDENCY_DOWN", message, retry_after=RETRY_AFTER) from error
        raise
