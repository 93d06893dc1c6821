"""FeedService: the log as a stream, its heads, and followers' cursors.

service = FeedService(feed, BlockReader(ReadPool(pool).fetch))   # with the rights of workmesh_feed
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import grpc

from services.ledger.block_reader import BlockReader
from services.ledger.feed import Feed
from services.ledger.read_checks import Checks
from workmesh.chain import HASH_BYTES
from workmesh.ledger.v1 import feed_service_pb2 as pb
from workmesh.ledger.v1.block_pb2 import Position
from workmesh.ledger.v1.feed_service_pb2_grpc import FeedServiceServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class FeedService(FeedServiceServicer):
    """Serves followers; constructed with the feed and a reader of the log."""

    def __init__(self, feed: Feed, reader: BlockReader) -> None:
        self._feed = feed
        self._reader = reader

    async def TailBlocks(
        self, request: pb.TailBlocksRequest, context: Context
    ) -> AsyncIterator[pb.TailBlocksResponse]:
        check_positions(request.after)
        follower = await self._feed.follow(request.after)
        try:
            while True:
                yield pb.TailBlocksResponse(blocks=await follower.next())
        finally:
            self._feed.leave(follower)

    async def GetHeads(self, request: pb.GetHeadsRequest, context: Context) -> pb.GetHeadsResponse:
        return pb.GetHeadsResponse(heads=await self._reader.heads())

    async def GetCursor(self, request: pb.GetCursorRequest, context: Context) -> pb.GetCursorResponse:
        checks = Checks()
        checks.name(request.name, "name")
        checks.done()
        row = await self._reader.cursor(request.name)
        if row is None:
            return pb.GetCursorResponse()
        epoch, positions, data = row
        return pb.GetCursorResponse(
            epoch=epoch, positions=[Position.FromString(each) for each in positions], data=data
        )


def check_positions(positions: Sequence[Position]) -> None:
    """Raise INVALID_ARGUMENT unless the positions are well-formed and name each chain once."""
    checks = Checks()
    seen: set[int] = set()
    for index, each in enumerate(positions):
        field = f"after[{index}]"
        checks.require(each.chain > 0, f"{field}.chain", "is not a chain's number")
        checks.require(each.chain not in seen, f"{field}.chain", "is named twice")
        checks.not_negative(each.height, f"{field}.height")
        length = HASH_BYTES if each.height > 0 else 0
        checks.require(len(each.hash) == length, f"{field}.hash", f"has not {length} bytes")
        seen.add(each.chain)
    checks.done()
