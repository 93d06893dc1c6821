"""What the scheduler asks of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import grpc
import orjson

from workmesh import errors
from workmesh.ledger.v1.block_pb2 import Block, Position
from workmesh.ledger.v1.feed_service_pb2 import (
    GetCursorRequest,
    TailBlocksRequest,
    TailBlocksResponse,
)
from workmesh.ledger.v1.feed_service_pb2_grpc import FeedServiceStub
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob, StreamLiveJobsRequest
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2 import (
    AcquireSingletonRequest,
    ReleaseSingletonRequest,
    StoreCursorRequest,
)
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub

NAME = "projection"
CALL_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""The feed gives a sign of life every 5 s."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far projection came: positions by chain, the generation of the stream they are true of, and when
    that stream had been filled, seconds since the epoch.
    """

    generation: str
    positions: dict[int, Position]
    filled_at: float


class LedgerClient:
    """Calls with deadlines; what fails is raised as MeshError."""

    def __init__(self, channel: grpc.aio.Channel, holder: str) -> None:
        self._feed = FeedServiceStub(channel)
        self._reads = LedgerReadServiceStub(channel)
        self._writes = LedgerWriteServiceStub(channel)
        self._holder = holder

    async def acquire(self, seconds: float, timeout: float = CALL_SECONDS) -> int:
        """Take or keep the singleton lease and return its epoch; ABORTED SINGLETON_HELD by another."""
        request = AcquireSingletonRequest(name=NAME, holder=self._holder, lease_micros=round(seconds * 1e6))
        try:
            return (await self._writes.AcquireSingleton(request, timeout=timeout)).epoch
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None

    async def release(self, epoch: int) -> None:
        """Hand the singleton lease back."""
        request = ReleaseSingletonRequest(name=NAME, holder=self._holder, epoch=epoch)
        try:
            await self._writes.ReleaseSingleton(request, timeout=1.0)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None

    async def cursor(self) -> Cursor | None:
        """Return the stored cursor; None if there never was one or it cannot be read."""
        try:
            response = await self._feed.GetCursor(GetCursorRequest(name=NAME), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        if not response.epoch:
            return None
        try:
            data = orjson.loads(response.data)
            return Cursor(str(data["generation"]), by_chain(response.positions), float(data["filled_at"]))
        except (ValueError, KeyError, TypeError):
            return None

    async def store_cursor(self, epoch: int, cursor: Cursor) -> None:
        """Store the cursor; ABORTED STALE_EPOCH if another scheduler projects."""
        data = orjson.dumps({"generation": cursor.generation, "filled_at": cursor.filled_at})
        request = StoreCursorRequest(name=NAME, epoch=epoch, positions=cursor.positions.values(), data=data)
        try:
            await self._writes.StoreCursor(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None

    async def tail(self, after: Iterable[Position]) -> AsyncIterator[Sequence[Block]]:
        """Yield blocks as they are committed; UNAVAILABLE when the feed falls silent or ends."""
        call = self._feed.TailBlocks(TailBlocksRequest(after=after))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    response = await call.read()
                if not isinstance(response, TailBlocksResponse):
                    raise errors.unavailable("DEPENDENCY_DOWN", "the feed ended")
                if response.blocks:
                    yield response.blocks
        except TimeoutError:
            raise errors.unavailable("DEPENDENCY_DOWN", "the feed is silent") from None
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        finally:
            call.cancel()

    async def live_jobs(
        self, *, runnable_before: int = 0, limit: int = 0, seconds: float = 300.0
    ) -> AsyncIterator[tuple[Sequence[Position], Sequence[LiveJob]]]:
        """Yield the chain heads first, then live jobs in batches; microseconds, 0: no bound."""
        request = StreamLiveJobsRequest(runnable_before_micros=runnable_before, limit=limit)
        call = self._reads.StreamLiveJobs(request, timeout=seconds)
        try:
            async for response in call:
                yield response.heads, response.jobs
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from None
        finally:
            call.cancel()


def by_chain(positions: Iterable[Position]) -> dict[int, Position]:
    """Return positions by their chain."""
    return {position.chain: position for position in positions}
