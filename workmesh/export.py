"""Export files of the log: ExportRecord messages, each behind its length as a varint.

The framing is that of protobuf's own length-prefixed streams, so any language's runtime reads the files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError

from workmesh.ledger.v1.block_pb2 import ExportRecord

FORMAT: Final = 1
"""Version of the format that headers name."""

MAX_RECORD_BYTES: Final = 64 << 20

_MAX_VARINT_BYTES = 5


class ExportDamaged(Exception):
    """The file is not a whole export: it was cut inside a record, or its bytes are none.

    `offset` is where the damaged record begins.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset
        self.reason = reason


def read_export(path: str | os.PathLike[str]) -> Iterator[ExportRecord]:
    """Yield the records of a file, one in memory at a time; raises ExportDamaged where it cannot go on."""
    with Path(path).open("rb") as file:
        yield from read_records(file)


def read_records(file: BinaryIO) -> Iterator[ExportRecord]:
    """Yield the records of an open file from its start; raises ExportDamaged where it cannot go on."""
    offset = 0
    while (length := _read_length(file, offset)) is not None:
        start = file.tell()
        data = file.read(length)
        if len(data) != length:
            raise ExportDamaged(offset, f"the file was cut: {length - len(data)} bytes are missing")
        try:
            yield ExportRecord.FromString(data)
        except DecodeError:
            raise ExportDamaged(offset, "this is no export record") from None
        offset = start + length


def write_export(path: str | os.PathLike[str], records: Iterable[ExportRecord]) -> None:
    """Write a file of records; it is on disk when the call returns."""
    with Path(path).open("wb") as file:
        for record in records:
            write_record(file, record)
        file.flush()
        os.fsync(file.fileno())


def write_record(file: BinaryIO, record: ExportRecord) -> None:
    """Append one record to a file open for writing."""
    data = record.SerializeToString()
    file.write(_varint(len(data)))
    file.write(data)


def _read_length(file: BinaryIO, offset: int) -> int | None:
    """Read a record's length; None at the end of the file."""
    length = 0
    for count in range(_MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            if count == 0:
                return None
            raise ExportDamaged(offset, "the file was cut inside a record's length")
        length |= (byte[0] & 0x7F) << (7 * count)
        if byte[0] < 0x80:
            break
    else:
        raise ExportDamaged(offset, "a record's length is malformed")
    if length > MAX_RECORD_BYTES:
        raise ExportDamaged(offset, f"a record is said to have {length} bytes, more than {MAX_RECORD_BYTES}")
    return length


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(0x80 | value & 0x7F)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
