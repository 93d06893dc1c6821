"""Forward-only schema migrations: numbered SQL files, each applied once in a transaction of its own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from services.ledger.database import CONNECT_SECONDS, is_outage

logger = logging.getLogger(__name__)

DIRECTORY: Final = Path(__file__).parent / "sql" / "migrations"

# One number for every ledger of a database: the second to start waits until the first has migrated.
_LOCK: Final = 0x776D_6D69_6772
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_CREATE_TABLE: Final = """
create table if not exists migrations (
    version int primary key,
    name text not null,
    checksum text not null,
    apply_time timestamptz not null default now()
)
"""


class MigrationError(Exception):
    """The files and the database disagree about what was applied."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, statements and the SHA-256 (hex) of its text."""

    version: int
    name: str
    sql: str
    checksum: str


def load(directory: Path = DIRECTORY) -> tuple[Migration, ...]:
    """Return the migrations of a directory by number; MigrationError for wrong names or gaps."""
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not called 0001_words.sql")
        text = path.read_text()
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found.append(Migration(int(match.group(1)), path.stem, text, checksum))
    if [each.version for each in found] != list(range(1, len(found) + 1)):
        raise MigrationError("migrations are numbered from 0001 without gaps")
    return tuple(found)


def pending(migrations: Sequence[Migration], applied: Sequence[tuple[int, str]]) -> tuple[Migration, ...]:
    """Return what is to be applied, given (version, checksum) of what was.

    A database that is ahead of the files is fine: a newer release migrated it. MigrationError if an
    applied file was changed or one was left out.
    """
    checksums = dict(applied)
    for migration in migrations:
        known = checksums.get(migration.version)
        if known is not None and known != migration.checksum:
            raise MigrationError(f"{migration.name} was changed after it had been applied")
    missing = tuple(each for each in migrations if each.version not in checksums)
    if missing and checksums and missing[0].version < max(checksums):
        raise MigrationError(f"{missing[0].name} was left out when later ones were applied")
    return missing


async def migrate(connection: asyncpg.Connection, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing as the database's owner and return the names; others wait meanwhile."""
    migrations = load() if migrations is None else migrations
    await connection.execute("select pg_advisory_lock($1)", _LOCK)
    try:
        await connection.execute(_CREATE_TABLE)
        rows = await connection.fetch("select version, checksum from migrations order by version")
        missing = pending(migrations, [(row["version"], row["checksum"]) for row in rows])
        for migration in missing:
            await _apply(connection, migration)
        return [migration.name for migration in missing]
    finally:
        await connection.execute("select pg_advisory_unlock($1)", _LOCK)


async def migrate_when_up(url: str) -> None:
    """Apply what is missing as soon as the database answers; for as long as it takes."""
    backoff = 0.1
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
            try:
                await migrate(connection)
            finally:
                connection.terminate()
        except Exception as error:
            if not is_outage(error):
                raise
            logger.warning("waiting for the database: %s", error, extra={"action": "database_awaited"})
            await asyncio.sleep(backoff)
            backoff = min(2.0, 2 * backoff)
        else:
            return


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.sql)
        await connection.execute(
            "insert into migrations (version, name, checksum) values ($1, $2, $3)",
            migration.version,
            migration.name,
            migration.checksum,
        )
    logger.info("Applied a migration", extra={"action": "migration_applied", "migration": migration.name})
