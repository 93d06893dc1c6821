"""Ends a stack's processes when its runner is gone; for systems without a parent-death signal.

    python -m workmesh.local.watchdog <stack.json>

The runner holds the other end of standard input and never writes to it: end of file means that it
has ended. What the record then still lists is ended too; after an ordered stop it lists nothing.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from workmesh.local.record import end_stale, read_record


def main(record_path: Path) -> None:
    """Wait for the runner's end, then end its processes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1):
        continue
    record = read_record(record_path)
    if record is not None:
        end_stale(record)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
