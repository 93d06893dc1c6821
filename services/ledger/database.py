"""Connections to PostgreSQL, each under the least of the ledger's roles, and what driver errors mean."""

from __future__ import annotations

from enum import Enum
from typing import Final

import asyncpg

CONNECT_SECONDS: Final = 5.0
STATEMENT_SECONDS: Final = 10.0
LOCK_SECONDS: Final = 3.0

BLOCKS_CHANNEL: Final = "workmesh_blocks"
"""NOTIFY channel that says that blocks were committed; the payload is the instance that did."""

NOW_MICROS: Final = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"


class Role(Enum):
    """Rights of a connection: those of the database role of that name."""

    WRITER = "workmesh_writer"
    READER = "workmesh_reader"
    FEED = "workmesh_feed"
    AUDITOR = "workmesh_auditor"


# Batches join arrays with tables by key: the planner, which cannot know how short the arrays are, must
# neither sort nor hash a table for them, and walking them in order is what locks rows in key order.
_WRITER_SETTINGS: Final[dict[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "idle_in_transaction_session_timeout": "15s",
}


def _settings(role: Role, application: str) -> dict[str, str]:
    shared = {
        "role": role.value,
        "application_name": application,
        "jit": "off",
        "timezone": "UTC",
        "statement_timeout": f"{STATEMENT_SECONDS:g}s",
        "lock_timeout": f"{LOCK_SECONDS:g}s",
    }
    return shared | (_WRITER_SETTINGS if role is Role.WRITER else {})


async def connect(url: str, role: Role, application: str) -> asyncpg.Connection:
    """Open a connection of its own under a role; raises what `is_outage` tells apart."""
    return await asyncpg.connect(
        url,
        server_settings=_settings(role, application),
        timeout=CONNECT_SECONDS,
        # A statement is planned once a connection, not again each five minutes.
        max_cached_statement_lifetime=0,
    )


async def _leave(connection: asyncpg.Connection) -> None:
    """Nothing here changes a session's settings, so a round trip that resets them would be for nothing."""


async def open_pool(url: str, role: Role, application: str, size: int) -> asyncpg.Pool:
    """Return a pool of at most `size` connections under a role, each opened when it is first needed.

    The server may be away; calls are bounded by STATEMENT_SECONDS.
    """
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size,
        server_settings=_settings(role, application),
        timeout=CONNECT_SECONDS,
        command_timeout=STATEMENT_SECONDS + 1.0,
        reset=_leave,
    )


def is_outage(error: BaseException) -> bool:
    """Tell whether an error speaks of the server or the connection, not of the statement that met it."""
    if isinstance(error, ValueError):
        # A value that the driver could not encode: an InterfaceError by its other parent.
        return False
    return isinstance(
        error,
        (
            OSError,
            TimeoutError,
            asyncpg.PostgresConnectionError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
            asyncpg.OperatorInterventionError,
            asyncpg.InsufficientResourcesError,
            asyncpg.IdleInTransactionSessionTimeoutError,
            asyncpg.ReadOnlySQLTransactionError,
        ),
    )


def is_collision(error: BaseException) -> bool:
    """Tell whether a transaction lost a race (deadlock, serialization, lock timeout) and may run again."""
    return isinstance(
        error,
        (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError),
    )
