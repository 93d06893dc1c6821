from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ledger_reads.logs import (
    LogBuilder,
    anything,
    bounded,
    export,
    first_at,
    logs,
    next_block,
    pick,
    places,
    position,
    seal,
)
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, ExportRecord, Position
from workmesh.verify import verify_export


@bounded
@given(logs())
def test_an_untouched_export_holds(log: LogBuilder) -> None:
    verdict = verify_export(log.export())
    assert verdict.holds
    assert verdict.block_count == len(log.blocks)
    assert verdict.event_count == sum(len(block.events) for block in log.blocks)
    assert list(verdict.heads) == log.heads()


@bounded
@given(logs(), st.data())
def test_an_export_of_the_rest_after_any_positions_holds(log: LogBuilder, data: st.DataObject) -> None:
    chains = sorted({block.chain for block in log.blocks})
    starts = []
    for chain in chains:
        blocks = [block for block in log.blocks if block.chain == chain]
        start = data.draw(st.integers(0, len(blocks)))
        starts.append(position(blocks[start - 1]) if start else Position(chain=chain))
    after = {start.chain: start.height for start in starts}
    rest = [block for block in log.blocks if block.height > after[block.chain]]
    records = export(rest, log.heads())
    del getattr(records[0].header, "from")[:]
    getattr(records[0].header, "from").extend(starts)
    assert verify_export(records).holds


@bounded
@given(logs(), st.data())
def test_a_flipped_bit_in_an_event_is_found_in_its_block(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    block = records[pick(data, records)].block
    index = data.draw(st.integers(0, len(block.events) - 1))
    changed = bytearray(block.events[index])
    bit = data.draw(st.integers(0, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    block.events[index] = bytes(changed)
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_WRONG_ROOT)


@bounded
@given(logs(), st.data())
def test_a_dropped_event_is_found_in_its_block(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    block = records[pick(data, records)].block
    del block.events[data.draw(st.integers(0, len(block.events) - 1))]
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_WRONG_COUNT)


@bounded
@given(logs(), st.data())
def test_an_inserted_event_is_found_in_its_block(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    block = records[pick(data, records)].block
    block.events.insert(data.draw(st.integers(0, len(block.events))), block.events[0])
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_WRONG_COUNT)


@bounded
@given(logs(), st.data())
def test_events_in_another_order_are_found_in_their_block(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    at = pick(data, records, least_events=2)
    if at < 0:
        return
    block = records[at].block
    first, second = data.draw(st.permutations(range(len(block.events))))[:2]
    block.events[first], block.events[second] = block.events[second], block.events[first]
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_WRONG_ROOT)


def _count(block: Block) -> None:
    block.event_count = len(block.events)


def _count_and_root(block: Block) -> None:
    sealed = Block()
    sealed.CopyFrom(block)
    block.merkle_root, block.event_count = seal(sealed).merkle_root, len(block.events)


@pytest.mark.parametrize(
    ("cover", "kind"),
    [(_count, ChainFault.KIND_WRONG_ROOT), (_count_and_root, ChainFault.KIND_WRONG_HASH)],
    ids=["count", "count and root"],
)
@bounded
@given(log=logs(), data=st.data())
def test_a_dropped_event_is_found_however_its_header_is_mended(
    log: LogBuilder, data: st.DataObject, cover: Callable[[Block], None], kind: int
) -> None:
    records = log.export()
    at = pick(data, records, least_events=2)
    if at < 0:
        return
    block = records[at].block
    del block.events[-1]
    cover(block)
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, kind)


@bounded
@given(logs(), st.data())
def test_a_block_rewritten_with_a_right_hash_breaks_the_link_behind_it(
    log: LogBuilder, data: st.DataObject
) -> None:
    records = log.export()
    block = records[pick(data, records)].block
    block.events[0] = anything()
    seal(block)
    heads = {head.chain: head.height for head in log.heads()}
    fault = first_at(verify_export(records), block.chain)
    if block.height == heads[block.chain]:
        assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_WRONG_HASH)
    else:
        assert (fault.height, fault.kind) == (block.height + 1, ChainFault.KIND_BROKEN_LINK)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda block: setattr(block, "prev_hash", bytes(31) + b"x"), ChainFault.KIND_BROKEN_LINK),
        (lambda block: setattr(block, "prev_hash", b"short"), ChainFault.KIND_BROKEN_LINK),
        (lambda block: setattr(block, "merkle_root", bytes(32)), ChainFault.KIND_WRONG_ROOT),
        (lambda block: setattr(block, "hash", bytes(32)), ChainFault.KIND_WRONG_HASH),
        (lambda block: setattr(block, "time_micros", block.time_micros + 1), ChainFault.KIND_WRONG_HASH),
        (lambda block: setattr(block, "timeline", block.timeline + 1), ChainFault.KIND_WRONG_HASH),
        (lambda block: setattr(block, "timeline", -1), ChainFault.KIND_WRONG_HASH),
        (lambda block: setattr(block, "event_count", block.event_count + 1), ChainFault.KIND_WRONG_COUNT),
    ],
)
@bounded
@given(log=logs(), data=st.data())
def test_a_changed_header_is_the_only_fault(
    log: LogBuilder, data: st.DataObject, change: Callable[[Block], None], kind: int
) -> None:
    records = log.export()
    records[-1].footer.ClearField("heads")
    records[-1].footer.heads.extend(log.heads())
    block = records[pick(data, records)].block
    last = position(block) in log.heads()
    change(block)
    verdict = verify_export(records)
    fault = verdict.faults[0]
    assert (fault.chain, fault.height, fault.kind) == (block.chain, block.height, kind)
    # A changed hash of the head differs from the footer's too; the blocks behind a fault are not blamed.
    assert set(places(verdict)) == {(block.chain, block.height)}
    assert verdict.fault_count == 1 or last


@bounded
@given(logs(), st.data())
def test_a_dropped_block_is_missed_at_its_height(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    at = pick(data, records)
    block = records.pop(at).block
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_MISSING_BLOCK)


@bounded
@given(logs(), st.data())
def test_a_repeated_block_is_found_at_its_height(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    at = pick(data, records)
    block = records[at].block
    later = data.draw(st.integers(at + 1, len(records) - 1))
    records.insert(later, records[at])
    verdict = verify_export(records)
    assert (block.chain, block.height) in places(verdict)


@bounded
@given(logs(), st.data())
def test_blocks_in_another_order_are_found_where_the_order_breaks(
    log: LogBuilder, data: st.DataObject
) -> None:
    records = log.export()
    pairs = [i for i in range(1, len(records) - 2) if records[i].block.chain == records[i + 1].block.chain]
    if not pairs:
        return
    at = data.draw(st.sampled_from(pairs))
    block = records[at].block
    records[at], records[at + 1] = records[at + 1], records[at]
    fault = first_at(verify_export(records), block.chain)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_MISSING_BLOCK)


@bounded
@given(logs(), st.data())
def test_a_block_appended_behind_the_head_is_found(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    head = data.draw(st.sampled_from(log.heads()))
    before = next(each.block for each in records if position(each.block) == head)
    forged = next_block(before, [anything()], chain=head.chain)
    records.insert(len(records) - 1, ExportRecord(block=forged))
    fault = first_at(verify_export(records), head.chain)
    assert (fault.height, fault.kind) == (head.height + 1, ChainFault.KIND_BROKEN_LINK)


@bounded
@given(logs(), st.data())
def test_a_block_moved_to_another_chain_is_missed_where_it_was(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    block = records[pick(data, records)].block
    was = block.chain
    block.chain = 9
    verdict = verify_export(records)
    fault = first_at(verdict, was)
    assert (fault.height, fault.kind) == (block.height, ChainFault.KIND_MISSING_BLOCK)
