"""A connection of its own and the named statements that run on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import asyncpg

from services.ledger import statements
from services.ledger.database import Role, connect

WRITE_STATEMENTS: Final[Mapping[str, str]] = {
    **statements.load("chains"),
    **statements.load("batches"),
    **statements.load("rows"),
    **statements.load("definitions"),
}


class Session:
    """Runs named statements; the connection is nobody else's, and whoever uses it bounds the time."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.pid: int = connection.get_server_pid()

    @classmethod
    async def open(cls, url: str, application: str) -> Session:
        """Connect as the writer."""
        return cls(await connect(url, Role.WRITER, application))

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._connection.is_closed()

    def on_end(self, callback: Callable[[Session], None]) -> None:
        """Call back when the connection ends, for whatever reason."""
        self._connection.add_termination_listener(lambda _: callback(self))

    async def fetch(self, name: str, *arguments: object) -> list[Any]:
        """Run a statement and return its rows."""
        return await self._connection.fetch(WRITE_STATEMENTS[name], *arguments)

    async def fetch_value(self, name: str, *arguments: object) -> Any:
        """Run a statement and return the first column of its first row, None without rows."""
        return await self._connection.fetchval(WRITE_STATEMENTS[name], *arguments)

    async def begin(self) -> None:
        """Begin a transaction."""
        await self._connection.execute("begin")

    async def rollback(self) -> None:
        """Undo the transaction."""
        await self._connection.execute("rollback")

    async def commit(self) -> None:
        """Commit, whatever happens to the caller: never cancelled, by nobody's clock.

        Any exception leaves the outcome unknown.
        """
        done = await asyncio.shield(self._connection.execute("commit"))
        if done != "COMMIT":
            raise asyncpg.InterfaceError(f"the server answered {done} to a commit")

    def terminate(self) -> None:
        """Drop the connection without waiting for anything."""
        self._connection.terminate()
