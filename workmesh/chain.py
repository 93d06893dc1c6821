"""Hashes of the log: RFC 6962 Merkle trees over events, blocks chained by their headers.

A block's hash is SHA-256 over `workmesh-block-1` and, big-endian, chain (u32), height (u64), timeline (u64),
previous hash (32 bytes), Merkle root (32 bytes), event count (u32) and time in microseconds (i64). Events
hold digests of bodies, so erasing a body changes no hash.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from workmesh.ledger.v1 import block_pb2

HASH_BYTES: Final = 32
GENESIS: Final = bytes(HASH_BYTES)
"""Previous hash of a chain's first block, at height 1."""

_TAG = b"workmesh-block-1"
_HEADER = struct.Struct(">16sIQQ32s32sIq")
_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a block of the log, and where."""

    chain: int
    height: int
    description: str


def digest(body: bytes) -> bytes:
    """Return the SHA-256 under which an event names a body."""
    return _sha256(body).digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the RFC 6962 §2.1 Merkle tree hash over leaves; that of no leaves is SHA-256 of nothing.

    Joining neighbours level by level and carrying an odd last one up builds the RFC's tree, which splits at
    the largest power of two below the number of leaves.
    """
    if not leaves:
        return _sha256().digest()
    sha256 = _sha256
    level = [sha256(b"\x00" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        joined = [sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        if len(level) & 1:
            joined.append(level[-1])
        level = joined
    return level[0]


def block_hash(
    chain: int,
    height: int,
    timeline: int,
    prev_hash: bytes,
    merkle_root: bytes,
    event_count: int,
    time_micros: int,
) -> bytes:
    """Return the hash of a block's header; ValueError when a field does not fit its width."""
    if len(prev_hash) != HASH_BYTES or len(merkle_root) != HASH_BYTES:
        raise ValueError("the previous hash and the Merkle root have 32 bytes each")
    try:
        header = _HEADER.pack(_TAG, chain, height, timeline, prev_hash, merkle_root, event_count, time_micros)
    except struct.error as error:
        raise ValueError(f"a field of the block's header is out of range: {error}") from None
    return _sha256(header).digest()


def verify_block(block: block_pb2.Block, prev_hash: bytes) -> Fault | None:
    """Return the first fault of a block that is to follow the block of a given hash, or None."""
    description = _fault_of(block, prev_hash)
    return None if description is None else Fault(block.chain, block.height, description)


def verify_chain(
    blocks: Iterable[block_pb2.Block], prev_hash: bytes = GENESIS, height: int = 0
) -> Fault | None:
    """Return the first fault of the blocks of one chain that follow a given height and hash, or None."""
    chain: int | None = None
    for block in blocks:
        chain = block.chain if chain is None else chain
        height += 1
        if block.chain != chain or block.height != height:
            return Fault(chain, height, f"found chain {block.chain} height {block.height} in this place")
        fault = verify_block(block, prev_hash)
        if fault is not None:
            return fault
        prev_hash = block.hash
    return None


def _fault_of(block: block_pb2.Block, prev_hash: bytes) -> str | None:
    if block.prev_hash != prev_hash:
        return "does not follow the block before it"
    if not block.events or block.event_count != len(block.events):
        return f"holds {len(block.events)} events, its header says {block.event_count}"
    if block.merkle_root != merkle_root(block.events):
        return "an event differs from what was committed"
    try:
        expected = block_hash(
            block.chain,
            block.height,
            block.timeline,
            block.prev_hash,
            block.merkle_root,
            block.event_count,
            block.time_micros,
        )
    except ValueError as error:
        return str(error)
    return None if block.hash == expected else "its header differs from what was committed"
