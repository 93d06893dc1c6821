"""Databases for tests: copies of a migrated one."""

from __future__ import annotations

import asyncpg

from services.ledger.migrations import migrate

TEMPLATE = "reads_template"


class Databases:
    """Makes databases on one server; URLs as the ledger gets them, and as the superuser."""

    def __init__(self, url: str, superuser_url: str) -> None:
        self._url = url
        self._superuser_url = superuser_url

    def url(self, name: str) -> str:
        return self._url.replace("/workmesh?", f"/{name}?")

    def superuser_url(self, name: str) -> str:
        return self._superuser_url.replace("/workmesh?", f"/{name}?")

    async def prepare(self) -> None:
        """Make the template."""
        await self._as_superuser(f"create database {TEMPLATE} owner workmesh")
        connection = await asyncpg.connect(self.url(TEMPLATE))
        try:
            await migrate(connection)
        finally:
            await connection.close()

    async def create(self, name: str) -> None:
        await self._as_superuser(f"create database {name} template {TEMPLATE} owner workmesh")

    async def drop(self, name: str) -> None:
        await self._as_superuser(f"drop database {name} with (force)")

    async def shut(self, name: str) -> None:
        """End all connections to a database and allow no new ones."""
        await self._as_superuser(f"alter database {name} connection limit 0")
        await self.disconnect(name)

    async def disconnect(self, name: str) -> None:
        """End all connections to a database."""
        await self._as_superuser(
            f"select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"  # noqa: S608
        )

    async def reopen(self, name: str) -> None:
        """Allow connections again."""
        await self._as_superuser(f"alter database {name} connection limit -1")

    async def _as_superuser(self, statement: str) -> None:
        connection = await asyncpg.connect(self._superuser_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()
