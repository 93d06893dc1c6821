from __future__ import annotations

import io
from pathlib import Path

import pytest
from google.protobuf import proto

from tests.unit.ledger_reads.logs import LogBuilder
from workmesh.export import ExportDamaged, read_export, read_records, write_export
from workmesh.ledger.v1.block_pb2 import Block, ExportRecord
from workmesh.verify import verify_export


def export_of(blocks: int) -> list[ExportRecord]:
    log = LogBuilder()
    for number in range(blocks):
        log.append(1 + number % 2, [number % 6])
    return log.export()


def test_a_file_gives_back_its_records(tmp_path: Path) -> None:
    records = export_of(5)
    write_export(tmp_path / "log", records)
    assert list(read_export(tmp_path / "log")) == records
    assert verify_export(read_export(tmp_path / "log")).holds


def test_the_framing_is_that_of_other_runtimes(tmp_path: Path) -> None:
    records = [*export_of(3), ExportRecord(block=Block(events=[bytes(70_000)])), ExportRecord()]
    write_export(tmp_path / "log", records)
    with (tmp_path / "log").open("rb") as file:
        read = [proto.parse_length_prefixed(ExportRecord, file) for _ in records]  # type: ignore[arg-type]
    assert read == records


def test_a_cut_record_is_told_with_its_place(tmp_path: Path) -> None:
    write_export(tmp_path / "log", export_of(1))
    data = (tmp_path / "log").read_bytes()
    with pytest.raises(ExportDamaged, match="cut") as caught:
        list(read_records(io.BytesIO(data[:-1])))
    assert 0 < caught.value.offset < len(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80", "inside a record's length"),
        (b"\xff\xff\xff\xff\xff\x01", "malformed"),
        (b"\xff\xff\xff\xff\x07", "more than"),
        (b"\x02\xff\xff", "no export record"),
    ],
)
def test_bytes_that_are_no_export_are_told(data: bytes, reason: str) -> None:
    with pytest.raises(ExportDamaged, match=reason):
        list(read_records(io.BytesIO(data)))
