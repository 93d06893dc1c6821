"""The sandbox's record: two append-only files of JSON lines, written before any answer leaves.

Each line is one unbuffered write, so what was answered is in the kernel's hands: it survives kill -9 of this
process (not a power cut). A line that a kill tore in two is cut off at the next start.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import orjson

REQUESTS: Final = "requests.jsonl"
EFFECTS: Final = "effects.jsonl"


class Record:
    """Appends requests and effects under one directory, which it makes if it must."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._requests = _open(directory / REQUESTS)
        self._effects = _open(directory / EFFECTS)

    def request(self, entry: dict[str, Any]) -> None:
        """Records one request with what became of it."""
        _append(self._requests, entry)

    def effect(self, entry: dict[str, Any]) -> None:
        """Records one effect: something that now exists in a system."""
        _append(self._effects, entry)

    def close(self) -> None:
        os.close(self._requests)
        os.close(self._effects)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a record file; a torn last line is left out, a missing file is empty."""
    if not path.exists():
        return []
    complete, _, _ = path.read_bytes().rpartition(b"\n")
    return [orjson.loads(line) for line in complete.splitlines()]


def _open(path: Path) -> int:
    if path.exists():
        complete, newline, _ = path.read_bytes().rpartition(b"\n")
        os.truncate(path, len(complete) + len(newline))
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _append(descriptor: int, entry: dict[str, Any]) -> None:
    line = memoryview(orjson.dumps(entry) + b"\n")
    while line:
        line = line[os.write(descriptor, line) :]
