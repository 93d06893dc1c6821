from __future__ import annotations

from services.ledger.recent_blocks import RecentBlocks
from workmesh.ledger.v1.block_pb2 import Block


def block(height: int, size: int = 1) -> Block:
    return Block(chain=1, height=height, events=[bytes(size)])


def heights(recent: RecentBlocks, after: int) -> list[int] | None:
    found = recent.after(after)
    return None if found is None else [each.block.height for each in found]


def test_blocks_are_found_by_the_height_before_them() -> None:
    recent = RecentBlocks(max_blocks=10, max_bytes=1 << 20)
    for height in range(5, 9):
        recent.add(block(height))
    assert heights(recent, 4) == [5, 6, 7, 8]
    assert heights(recent, 6) == [7, 8]
    assert heights(recent, 3) is None
    assert heights(recent, 8) is None
    assert heights(RecentBlocks(1, 1), 0) is None


def test_old_blocks_go_when_there_are_too_many() -> None:
    recent = RecentBlocks(max_blocks=3, max_bytes=1 << 20)
    for height in range(1, 8):
        recent.add(block(height))
    assert heights(recent, 4) == [5, 6, 7]
    assert heights(recent, 3) is None


def test_old_blocks_go_when_they_are_too_large_and_the_newest_stays() -> None:
    recent = RecentBlocks(max_blocks=10, max_bytes=3_000)
    for height in range(1, 5):
        recent.add(block(height, 1_000))
    assert len(recent) == 2
    assert recent.size <= 3_000
    recent.add(block(5, 50_000))
    assert heights(recent, 4) == [5]
    assert len(recent) == 1


def test_a_gap_begins_a_new_run_and_repeats_change_nothing() -> None:
    recent = RecentBlocks(max_blocks=10, max_bytes=1 << 20)
    for height in (1, 2, 2, 1):
        recent.add(block(height))
    assert heights(recent, 0) == [1, 2]
    recent.add(block(4))
    assert heights(recent, 0) is None
    assert heights(recent, 3) == [4]
    assert recent.newest == 4
    assert recent.size == block(4).ByteSize()
