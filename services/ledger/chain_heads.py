"""How far every chain has come, as far as this process knows, and the recent blocks of those it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from services.ledger.recent_blocks import RecentBlocks
from workmesh.ledger.v1.block_pb2 import Block, Position


class _Chain:
    def __init__(self, recent: RecentBlocks) -> None:
        self.head = 0
        self.recent = recent


class ChainHeads:
    """Knows each chain's head; it moves up when told of a block, and back when the log lost blocks."""

    def __init__(self, recent_blocks: int, recent_bytes: int) -> None:
        self._recent_blocks = recent_blocks
        self._recent_bytes = recent_bytes
        self._chains: dict[int, _Chain] = {}

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Iterate over chains and the heights of their heads."""
        return ((number, chain.head) for number, chain in self._chains.items())

    def recent(self, chain: int) -> RecentBlocks:
        """Return a chain's recent blocks."""
        return self._at(chain).recent

    def committed(self, block: Block) -> None:
        """Take a block committed by this process."""
        chain = self._at(block.chain)
        chain.recent.add(block)
        chain.head = max(chain.head, block.height)

    def heard(self, chain: int, height: int) -> bool:
        """Take note that a chain has come to a height, and tell whether that is news."""
        known = self._at(chain)
        if height <= known.head:
            return False
        known.head = height
        return True

    def replace(self, before: Mapping[int, int], read: Iterable[Position]) -> bool:
        """Take heads read from the database and tell whether any moved.

        `before` are the heads known when the reading began. A chain that is lower than it was known to be
        then has lost blocks (a standby without them was promoted) and moves back; not so if a block was
        committed during the reading, which then is the older news.
        """
        heads = {each.chain: each.height for each in read}
        moved = [self.heard(number, height) for number, height in heads.items()]
        lost = [number for number, head in before.items() if heads.get(number, 0) < head]
        for number in lost:
            chain = self._at(number)
            if chain.head == before[number]:
                chain.head = heads.get(number, 0)
                chain.recent.clear()
                moved.append(True)
        return any(moved)

    def _at(self, number: int) -> _Chain:
        chain = self._chains.get(number)
        if chain is None:
            chain = _Chain(RecentBlocks(self._recent_blocks, self._recent_bytes))
            self._chains[number] = chain
        return chain
