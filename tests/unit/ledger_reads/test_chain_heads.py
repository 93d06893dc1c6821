from __future__ import annotations

from services.ledger.chain_heads import ChainHeads
from workmesh.ledger.v1.block_pb2 import Block, Position


def head(chain: int, height: int) -> Position:
    return Position(chain=chain, height=height)


def made() -> ChainHeads:
    heads = ChainHeads(recent_blocks=10, recent_bytes=1 << 20)
    heads.committed(Block(chain=1, height=1, events=[b"x"]))
    heads.committed(Block(chain=1, height=2, events=[b"x"]))
    return heads


def test_heads_move_up_with_whatever_is_heard_first() -> None:
    heads = made()
    assert heads.heard(2, 7)
    assert not heads.heard(2, 6)
    assert not heads.heard(1, 2)
    heads.committed(Block(chain=2, height=7))
    assert dict(heads) == {1: 2, 2: 7}


def test_heads_read_from_the_database_are_news_only_when_they_moved() -> None:
    heads = made()
    assert not heads.replace(dict(heads), [head(1, 2)])
    assert heads.replace(dict(heads), [head(1, 3), head(5, 1)])
    assert dict(heads) == {1: 3, 5: 1}


def test_a_chain_that_lost_blocks_moves_back_and_forgets_them() -> None:
    heads = made()
    assert heads.replace(dict(heads), [head(1, 1)])
    assert dict(heads) == {1: 1}
    assert heads.recent(1).after(0) is None


def test_a_chain_that_is_gone_moves_back_to_nothing() -> None:
    heads = made()
    assert heads.replace(dict(heads), [])
    assert dict(heads) == {1: 0}


def test_a_block_committed_while_the_heads_were_read_is_not_taken_back() -> None:
    heads = made()
    before = dict(heads)
    heads.committed(Block(chain=1, height=3, events=[b"x"]))
    assert not heads.replace(before, [head(1, 2)])
    heads.committed(Block(chain=2, height=1, events=[b"x"]))
    assert not heads.replace(before, [head(1, 2)])
    assert dict(heads) == {1: 3, 2: 1}
