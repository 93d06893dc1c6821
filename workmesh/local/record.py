"""The stack's record, `stack.json`: what runs where. Read by people, `status`, `down` and the next start."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from workmesh.local.passwords import write_private

VERSION = 1


@dataclass(frozen=True)
class ProcessRecord:
    """One process. `identity` tells it from a later one with the same process id."""

    name: str
    service: str
    pid: int
    identity: str
    state: str
    restarts: int
    address: str = ""
    death_signal: int = int(signal.SIGKILL)


@dataclass(frozen=True)
class Record:
    """One running stack."""

    profile: str
    runner: ProcessRecord
    edge: str
    run_directory: str
    urls: dict[str, str] = field(default_factory=dict)
    """Addresses by service, without passwords."""
    processes: tuple[ProcessRecord, ...] = ()
    version: int = VERSION


def write_record(path: Path, record: Record) -> None:
    """Store the record in one step."""
    write_private(path, json.dumps(asdict(record), indent=2) + "\n")


def read_record(path: Path) -> Record | None:
    """The stored record; None where there is none of this version."""
    try:
        raw = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        return None
    raw["runner"] = ProcessRecord(**raw["runner"])
    raw["processes"] = tuple(ProcessRecord(**process) for process in raw["processes"])
    return Record(**raw)


def identity(pid: int) -> str | None:
    """What tells this process from any earlier or later one with its id; None if it does not live."""
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return _linux_identity(pid) or f"{process.create_time():.2f}"
    except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
        return None


def _linux_identity(pid: int) -> str | None:
    # psutil's time of creation follows changes of the clock; ticks since boot and the boot's id do not.
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        return None
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return f"{boot.read_text(encoding='ascii').strip()}:{after_name[19]}"


def is_alive(process: ProcessRecord) -> bool:
    """Whether exactly this process lives."""
    return identity(process.pid) == process.identity


def end_stale(record: Record, *, patience: float = 5.0) -> list[str]:
    """End the processes that a dead runner left; never a foreign one with a recycled id.

    Returns the names of those that were ended. Blocks for at most `patience` seconds before SIGKILL.
    """
    stale = [process for process in record.processes if is_alive(process)]
    for process in stale:
        _signal_group(process.pid, process.death_signal)
    until = time.monotonic() + patience
    for process in stale:
        while is_alive(process) and time.monotonic() < until:
            time.sleep(0.02)
        if is_alive(process):
            _signal_group(process.pid, signal.SIGKILL)
    return [process.name for process in stale]


def _signal_group(pid: int, number: int) -> None:
    try:
        # Each process leads a group of its own; its children belong to it.
        if os.getpgid(pid) == pid and number == signal.SIGKILL:
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return
