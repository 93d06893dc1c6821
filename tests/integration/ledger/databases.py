"""A PostgreSQL of the tests' own, and fresh databases on it."""

from __future__ import annotations

import itertools
from typing import Any

import asyncpg

from services.ledger.migrations import migrate
from workmesh.local.stack import Stack

TEMPLATE = "ledger_template"


class Databases:
    """Copies of one migrated database; SQL of the superuser, to look and to meddle behind the scenes."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._numbers = itertools.count(1)

    def url(self, name: str, role: str = "workmesh") -> str:
        """The URL of a database as a role that may log in."""
        return self.stack.database_url(role).replace("/workmesh?", f"/{name}?")

    async def prepare(self) -> None:
        """Make the template."""
        await self.run("postgres", f"create database {TEMPLATE} owner workmesh")
        connection = await asyncpg.connect(self.url(TEMPLATE))
        try:
            await migrate(connection)
        finally:
            await connection.close()

    async def create(self, *, template: str = TEMPLATE) -> str:
        """Make a database and return its name."""
        name = f"ledger_{next(self._numbers)}"
        await self.run("postgres", f"create database {name} template {template} owner workmesh")
        return name

    async def drop(self, name: str) -> None:
        """Delete a database, whoever is connected."""
        await self.run("postgres", f"drop database {name} with (force)")

    async def run(self, name: str, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Run a statement as the superuser and return its rows."""
        connection = await asyncpg.connect(self.url(name, "postgres"))
        try:
            if arguments:
                return await connection.fetch(sql, *arguments)
            if sql.lstrip().lower().startswith(("select", "with")):
                return await connection.fetch(sql)
            await connection.execute(sql)
            return []
        finally:
            await connection.close()
