from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.ledger_reads.logs import (
    JOBS,
    LogBuilder,
    bounded,
    export,
    logs,
    next_block,
    pick,
    places,
    position,
    seal,
)
from workmesh.chain import GENESIS
from workmesh.export import read_records, write_record
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import Block, ExportRecord
from workmesh.ledger.v1.event_pb2 import Event, StepsRecorded
from workmesh.verify import verify_export


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


def _numbered(seq: int) -> bytes:
    event = Event(job_id=JOBS[0], seq=seq, steps_recorded=StepsRecorded(epoch=1))
    return event.SerializeToString()
