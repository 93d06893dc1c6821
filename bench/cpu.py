"""CPU time of processes, from /proc: the steady figure on a machine whose clock time is noisy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_KIBIBYTE = 1024


def cpu_seconds(pids: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return user and system seconds so far by name; `agent-1` and `agent-2` count as `agent`.

    A name's first process is counted with its reaped children, so that database backends that have
    come and gone are not lost. This process, the client, counts as `client`.
    """
    own = os.times()
    seconds = {"client": own.user + own.system}
    for name, ids in pids.items():
        kind = name.rstrip("0123456789").rstrip("-")
        for index, pid in enumerate(ids):
            seconds[kind] = seconds.get(kind, 0.0) + _of(pid, with_children=index == 0)
    return seconds


def resident_mebibytes(pids: Mapping[str, Sequence[int]]) -> float:
    """Return the proportional set size of all processes together, in MiB."""
    kibibytes = 0
    for ids in pids.values():
        for pid in ids:
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            kibibytes += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return kibibytes / _KIBIBYTE


def _of(pid: int, *, with_children: bool) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    ticks = int(fields[11]) + int(fields[12])
    if with_children:
        ticks += int(fields[13]) + int(fields[14])
    return ticks / _TICKS
