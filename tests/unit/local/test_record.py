from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from workmesh.local.record import (
    ProcessRecord,
    Record,
    end_stale,
    identity,
    is_alive,
    read_record,
    write_record,
)

DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(60)
"""


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own that does not hear SIGTERM."""
    process = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"on\n"
    yield process
    process.stdout.close()
    process.kill()
    process.wait()


def record_of(process: ProcessRecord) -> Record:
    runner = ProcessRecord("runner", "runner", os.getpid(), identity(os.getpid()) or "", "running", 0)
    return Record("p", runner, "127.0.0.1:7700", "/tmp/run", {"nats": "127.0.0.1:1"}, (process,))


def seen(pid: int, number: int = signal.SIGKILL) -> ProcessRecord:
    return ProcessRecord("x", "nats", pid, identity(pid) or "", "ready", 0, death_signal=int(number))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(seen(os.getpid()))
    write_record(tmp_path / "stack.json", record)
    assert read_record(tmp_path / "stack.json") == record


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0}'])
def test_what_is_no_record_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    assert read_record(path) is None
    path.write_text(text)
    assert read_record(path) is None


def test_a_process_is_known_by_more_than_its_number() -> None:
    mine = seen(os.getpid())
    assert is_alive(mine)
    assert not is_alive(replace(mine, identity="another boot:1"))
    assert identity(0) is None


def test_a_stale_process_is_ended(deaf: subprocess.Popen[bytes]) -> None:
    assert end_stale(record_of(seen(deaf.pid))) == ["x"]
    assert deaf.wait(5) == -signal.SIGKILL


def test_one_that_does_not_listen_is_ended_after_a_while(deaf: subprocess.Popen[bytes]) -> None:
    assert end_stale(record_of(seen(deaf.pid, signal.SIGTERM)), patience=0.2) == ["x"]
    assert deaf.wait(5) == -signal.SIGKILL


def test_a_foreign_process_with_a_recycled_number_is_left_alone(deaf: subprocess.Popen[bytes]) -> None:
    foreign = replace(seen(deaf.pid), identity="the one before")
    assert end_stale(record_of(foreign)) == []
    assert deaf.poll() is None
