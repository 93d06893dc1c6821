from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workmesh import chain
from workmesh.ledger.v1.block_pb2 import Block

_LEAVES = st.lists(st.binary(max_size=16), min_size=1, max_size=40)


def rfc6962(leaves: list[bytes]) -> bytes:
    """The definition of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + rfc6962(leaves[:split]) + rfc6962(leaves[split:])).digest()


@given(st.lists(st.binary(max_size=16), max_size=70))
def test_the_root_is_that_of_rfc_6962(leaves: list[bytes]) -> None:
    assert chain.merkle_root(leaves) == rfc6962(leaves)


def test_the_root_agrees_with_the_published_vectors() -> None:
    # The test vectors of Certificate Transparency's reference implementation.
    leaves = [bytes.fromhex(each) for each in ("", "00", "10", "2021", "3031", "40414243")]
    leaves += [bytes.fromhex("5051525354555657"), bytes.fromhex("606162636465666768696a6b6c6d6e6f")]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {count: chain.merkle_root(leaves[:count]).hex() for count in roots} == roots


@given(_LEAVES, st.data())
def test_any_change_of_the_leaves_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(leaves) - 1))
    root = chain.merkle_root(leaves)
    assert chain.merkle_root([*leaves[:place], leaves[place] + b"!", *leaves[place + 1 :]]) != root
    assert chain.merkle_root([*leaves, leaves[-1]]) != root
    assert chain.merkle_root([*leaves[:place], *leaves[place + 1 :]]) != root


HEADER: dict[str, Any] = {
    "chain": 3,
    "height": 7,
    "timeline": 1,
    "prev_hash": b"\x01" * 32,
    "merkle_root": b"\x02" * 32,
    "event_count": 5,
    "time_micros": 1_800_000_000_000_000,
}


@pytest.mark.parametrize("field", list(HEADER))
def test_a_blocks_hash_covers_every_field_of_its_header(field: str) -> None:
    value = HEADER[field]
    other = b"\x03" * 32 if isinstance(value, bytes) else value + 1
    assert chain.block_hash(**HEADER) != chain.block_hash(**(HEADER | {field: other}))


def test_a_blocks_hash_is_the_documented_one() -> None:
    data = b"workmesh-block-1"
    data += (3).to_bytes(4, "big") + (7).to_bytes(8, "big") + (1).to_bytes(8, "big")
    data += b"\x01" * 32 + b"\x02" * 32 + (5).to_bytes(4, "big") + (1_800_000_000_000_000).to_bytes(8, "big")
    assert chain.block_hash(**HEADER) == hashlib.sha256(data).digest()


@pytest.mark.parametrize(
    "wrong", [{"chain": -1}, {"chain": 2**32}, {"height": -1}, {"prev_hash": b""}, {"merkle_root": b"x"}]
)
def test_a_header_that_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"range|32 bytes"):
        chain.block_hash(**(HEADER | wrong))


def blocks(count: int) -> list[Block]:
    made: list[Block] = []
    previous = chain.GENESIS
    for height in range(1, count + 1):
        events = [b"event %d of %d" % (number, height) for number in range(height)]
        block = Block(
            chain=2,
            height=height,
            timeline=1,
            prev_hash=previous,
            merkle_root=chain.merkle_root(events),
            time_micros=height,
            event_count=len(events),
            events=events,
        )
        block.hash = chain.block_hash(2, height, 1, previous, block.merkle_root, len(events), height)
        previous = block.hash
        made.append(block)
    return made


def test_a_chain_as_it_was_committed_is_without_fault() -> None:
    assert chain.verify_chain(blocks(5)) is None
    made = blocks(5)
    assert chain.verify_chain(made[2:], made[1].hash, 2) is None
    assert chain.verify_block(made[0], chain.GENESIS) is None


def rehash(block: Block) -> None:
    block.merkle_root = chain.merkle_root(block.events)
    block.event_count = len(block.events)
    block.hash = chain.block_hash(
        block.chain,
        block.height,
        block.timeline,
        block.prev_hash,
        block.merkle_root,
        block.event_count,
        block.time_micros,
    )


def faulty_at(made: list[Block]) -> int | None:
    fault = chain.verify_chain(made)
    return None if fault is None else fault.height


def test_every_kind_of_tampering_is_found_and_located() -> None:
    made = blocks(5)
    made[2].events[1] = b"another event"
    assert faulty_at(made) == 3

    made = blocks(5)
    made[2].events.append(b"one more")
    assert faulty_at(made) == 3

    made = blocks(5)
    made[2].time_micros += 1
    assert faulty_at(made) == 3

    made = blocks(5)
    del made[2]
    assert faulty_at(made) == 3

    made = blocks(5)
    made[2], made[3] = made[3], made[2]
    assert faulty_at(made) == 3

    made = blocks(5)
    made[2].chain = 9
    assert faulty_at(made) == 3

    made = blocks(5)
    del made[2].events[:]
    rehash(made[2])
    assert faulty_at(made) == 3


def test_a_block_forged_with_right_hashes_is_found_at_its_successor() -> None:
    made = blocks(5)
    made[2].events[1] = b"another event"
    rehash(made[2])
    fault = chain.verify_chain(made)
    assert fault == chain.Fault(2, 4, "does not follow the block before it")
