"""Singleton leases and the cursors stored under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.ledger import statements
from services.ledger.read_pool import told_as_mesh_errors
from workmesh import errors
from workmesh.ledger.v1.block_pb2 import Position

_SQL: Final = statements.load("followers")


@dataclass(frozen=True, slots=True)
class Hold:
    """A lease that was taken: its epoch and its end (microseconds since the epoch)."""

    epoch: int
    expire_time_micros: int


class Singletons:
    """Each change is one statement; the database's clock decides."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def acquire(self, name: str, holder: str, lease_micros: int) -> Hold:
        """Take or extend a lease; ABORTED SINGLETON_HELD while another holder has it."""
        with told_as_mesh_errors():
            row = await self._pool.fetchrow(_SQL["acquire_singleton"], name, holder, lease_micros)
            if row is not None:
                return Hold(row["epoch"], row["expire_time_micros"])
            other = await self._pool.fetchrow(_SQL["read_singleton"], name)
        raise errors.aborted(
            "SINGLETON_HELD",
            f"singleton {name!r} is held by another process",
            name=name,
            holder=other["holder"] if other else "",
            expire_time_micros=str(other["expire_time_micros"] if other else 0),
        )

    async def release(self, name: str, holder: str, epoch: int) -> None:
        """End a lease at once; nothing happens unless it is the current one."""
        with told_as_mesh_errors():
            await self._pool.execute(_SQL["release_singleton"], name, holder, epoch)

    async def store_cursor(self, name: str, epoch: int, positions: Sequence[Position], data: bytes) -> None:
        """Store a follower's cursor; ABORTED STALE_EPOCH unless the epoch is the singleton's current one."""
        places = [each.SerializeToString() for each in positions]
        with told_as_mesh_errors():
            stored = await self._pool.fetchval(_SQL["store_cursor"], name, epoch, places, data)
        if stored is None:
            raise errors.aborted(
                "STALE_EPOCH", f"epoch {epoch} of {name!r} is over", name=name, epoch=str(epoch)
            )
