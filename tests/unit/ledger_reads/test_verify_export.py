from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ledger_reads.logs import JOBS, LogBuilder, export, next_block, position, seal
from workmesh.chain import GENESIS
from workmesh.export import read_records, write_record
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, ExportRecord, Position
from workmesh.ledger.v1.event_pb2 import Event, StepsRecorded
from workmesh.verify import Verdict, verify_export

Place = tuple[int, int]

bounded = settings(max_examples=40, deadline=None)


@st.composite
def logs(draw: st.DrawFn) -> LogBuilder:
    """Two to three chains of up to a dozen blocks, with events of six jobs across them."""
    log = LogBuilder()
    jobs = st.lists(st.integers(0, len(JOBS) - 1), min_size=1, max_size=5)
    for chain, numbers in draw(st.lists(st.tuples(st.integers(1, 3), jobs), min_size=2, max_size=12)):
        log.append(chain, numbers)
    return log


def pick(data: st.DataObject, blocks: list[ExportRecord], least_events: int = 1) -> int:
    """Draw a block with at least so many events, by its place among the records."""
    fitting = [i for i, each in enumerate(blocks) if len(each.block.events) >= least_events]
    return data.draw(st.sampled_from(fitting)) if fitting else -1


def places(verdict: Verdict) -> list[Place]:
    return [(fault.chain, fault.height) for fault in verdict.faults]


def first_at(verdict: Verdict, chain: int) -> ChainFault:
    return next(fault for fault in verdict.faults if fault.chain == chain)


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
    block.events[0] = _anything()
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
    forged = next_block(before, [_anything()], chain=head.chain)
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


def framed(record: ExportRecord) -> bytes:
    file = io.BytesIO()
    write_record(file, record)
    return file.getvalue()


@bounded
@given(logs(), st.data())
def test_a_file_cut_at_any_byte_does_not_hold(log: LogBuilder, data: st.DataObject) -> None:
    whole = b"".join(map(framed, log.export()))
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    verdict = verify_export(read_records(io.BytesIO(cut)))
    assert not verdict.holds
    assert any("cut" in each for each in verdict.damage)


@bounded
@given(logs(), st.data())
def test_a_flipped_bit_in_a_block_record_of_the_file_is_found(log: LogBuilder, data: st.DataObject) -> None:
    records = log.export()
    at = pick(data, records)
    pieces = list(map(framed, records))
    changed = bytearray(pieces[at])
    start = len(changed) - records[at].ByteSize()
    bit = data.draw(st.integers(start * 8, len(changed) * 8 - 1))
    changed[bit // 8] ^= 1 << bit % 8
    pieces[at] = bytes(changed)
    assert not verify_export(read_records(io.BytesIO(b"".join(pieces)))).holds


def rewritten(blocks: list[Block], height: int) -> list[Block]:
    """Return a chain in which one event of a block was replaced and every hash from there on made anew."""
    forged: list[Block] = []
    for block in blocks:
        events = list(block.events)
        if block.height == height:
            event = Event.FromString(events[-1])
            event.client_id = "another"
            events[-1] = event.SerializeToString()
        forged.append(next_block(forged[-1] if forged else None, events, chain=block.chain))
    return forged


@bounded
@given(st.integers(2, 8), st.data())
def test_a_chain_made_anew_from_some_block_on_is_told_by_any_position_held_since(
    length: int, data: st.DataObject
) -> None:
    log = LogBuilder()
    for _ in range(length):
        log.append(1, [0])
    height = data.draw(st.integers(1, length))
    held = data.draw(st.integers(height, length))
    forged = rewritten(log.blocks, height)
    records = export(forged, [position(forged[-1])])
    assert verify_export(records).holds
    verdict = verify_export(records, known=[position(log.blocks[held - 1])])
    assert [(each.height, each.kind) for each in verdict.faults] == [(held, ChainFault.KIND_WRONG_HASH)]


def test_a_chain_that_lost_its_newest_blocks_is_told_by_a_position_held() -> None:
    log = LogBuilder()
    for _ in range(4):
        log.append(1, [0])
    records = export(log.blocks[:2], [position(log.blocks[1])])
    assert verify_export(records).holds
    verdict = verify_export(records, known=log.heads())
    assert [(each.height, each.kind) for each in verdict.faults] == [(3, ChainFault.KIND_MISSING_BLOCK)]


def test_a_history_with_a_gap_is_found_at_the_event_behind_it() -> None:
    blocks = [next_block(None, [_numbered(1), _numbered(2), _numbered(5)], chain=1)]
    fault = verify_export(export(blocks, [position(blocks[0])])).faults[0]
    assert (fault.chain, fault.height, fault.index) == (1, 1, 2)
    assert fault.kind == ChainFault.KIND_WRONG_EVENT
    assert fault.description == f"job {JOBS[0]} lacks its events 3 to 4"


def test_a_history_with_a_repeat_is_found_at_the_second_event() -> None:
    first = next_block(None, [_numbered(1), _numbered(2)], chain=1)
    second = next_block(None, [_numbered(2)], chain=2)
    fault = verify_export(export([first, second], [position(first), position(second)])).faults[0]
    assert (fault.chain, fault.height, fault.index) == (2, 1, 0)
    assert fault.description == f"job {JOBS[0]} has its event 2 twice"


def test_bytes_that_are_no_event_are_found_at_their_index() -> None:
    block = next_block(None, [_numbered(1), b"\xff\xff"], chain=1)
    fault = verify_export(export([block], [position(block)])).faults[0]
    assert (fault.height, fault.index, fault.kind) == (1, 1, ChainFault.KIND_WRONG_EVENT)


def test_an_event_of_a_job_without_a_number_is_found() -> None:
    block = next_block(None, [_numbered(0)], chain=1)
    fault = verify_export(export([block], [position(block)])).faults[0]
    assert (fault.height, fault.index, fault.kind) == (1, 0, ChainFault.KIND_WRONG_EVENT)


def test_a_chain_that_does_not_begin_at_genesis_is_found() -> None:
    block = next_block(None, [_numbered(1)], chain=1)
    block.prev_hash = b"x" * len(GENESIS)
    seal(block)
    fault = verify_export(export([block], [position(block)])).faults[0]
    assert (fault.height, fault.kind) == (1, ChainFault.KIND_BROKEN_LINK)


def test_an_empty_file_and_one_without_header_are_damaged() -> None:
    assert not verify_export([]).holds
    log = LogBuilder()
    log.append(1, [0])
    assert verify_export(log.export()[1:]).damage == ("there is no header",)


def test_records_behind_the_footer_are_damage() -> None:
    log = LogBuilder()
    log.append(1, [0])
    records = log.export()
    assert "a record stands after the footer" in verify_export([*records, records[-1]]).damage


def test_a_wrong_total_in_the_footer_is_damage() -> None:
    log = LogBuilder()
    log.append(1, [0])
    records = log.export()
    records[-1].footer.event_count += 1
    verdict = verify_export(records)
    assert not verdict.faults
    assert len(verdict.damage) == 1


def test_an_unknown_format_is_damage() -> None:
    log = LogBuilder()
    log.append(1, [0])
    records = log.export()
    records[0].header.format = 2
    assert not verify_export(records).holds


def test_of_many_faults_a_hundred_are_listed_the_first_of_each_chain_first() -> None:
    log = LogBuilder()
    for _ in range(80):
        log.append(1, [0])
    for _ in range(80):
        log.append(2, [1])
    for block in log.blocks:
        block.time_micros += 1
    verdict = verify_export(log.export())
    assert verdict.fault_count == 160
    assert len(verdict.faults) == 100
    assert places(verdict)[:2] == [(1, 1), (2, 1)]


def _anything() -> bytes:
    return Event(steps_recorded=StepsRecorded(epoch=99)).SerializeToString()


def _numbered(seq: int) -> bytes:
    event = Event(job_id=JOBS[0], seq=seq, steps_recorded=StepsRecorded(epoch=1))
    return event.SerializeToString()
