"""The newest blocks of one chain, kept in memory for followers that keep up."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import NamedTuple

from workmesh.ledger.v1.block_pb2 import Block


class SizedBlock(NamedTuple):
    """A block and its serialised size in bytes."""

    block: Block
    size: int


class RecentBlocks:
    """A run of consecutive blocks that ends with the newest added; bounded by count and bytes.

    The newest block always stays, however large it is.
    """

    def __init__(self, max_blocks: int, max_bytes: int) -> None:
        self._max_blocks = max_blocks
        self._max_bytes = max_bytes
        self._blocks: deque[SizedBlock] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def size(self) -> int:
        """Serialised bytes held."""
        return self._bytes

    @property
    def newest(self) -> int:
        """Height of the newest block; 0: there is none."""
        return self._blocks[-1].block.height if self._blocks else 0

    def add(self, block: Block) -> None:
        """Append the next block; one further on begins a new run, an older one is known already."""
        if self._blocks:
            if block.height <= self.newest:
                return
            if block.height != self.newest + 1:
                self.clear()
        size = block.ByteSize()
        self._blocks.append(SizedBlock(block, size))
        self._bytes += size
        while len(self._blocks) > 1 and (
            len(self._blocks) > self._max_blocks or self._bytes > self._max_bytes
        ):
            self._bytes -= self._blocks.popleft().size

    def after(self, height: int) -> islice[SizedBlock] | None:
        """Iterate over the blocks above the height; None where the next one is not, or no longer, held.

        The iterator is for use before the next `add`.
        """
        if not self._blocks:
            return None
        start = height + 1 - self._blocks[0].block.height
        if not 0 <= start < len(self._blocks):
            return None
        return islice(self._blocks, start, None)

    def clear(self) -> None:
        """Forget all blocks."""
        self._blocks.clear()
        self._bytes = 0
