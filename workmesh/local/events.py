"""What happened to the processes of a stack."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

from workmesh.clock import Clock

KEPT = 10_000


class Happening(StrEnum):
    """Kinds of events."""

    STARTED = "started"
    READY = "ready"
    SIGNALLED = "signalled"
    EXITED = "exited"
    STOPPED = "stopped"


@dataclass(frozen=True)
class StackEvent:
    """One event of one instance. `time` is seconds since the epoch."""

    time: float
    kind: Happening
    name: str
    pid: int
    detail: str = ""


class EventLog:
    """The newest events in memory, all of them as JSON lines in the stack's log."""

    def __init__(self, file: TextIO, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._events: deque[StackEvent] = deque(maxlen=KEPT)

    def add(self, kind: Happening, name: str, pid: int, detail: str = "") -> None:
        """Record an event."""
        event = StackEvent(self._clock.time(), kind, name, pid, detail)
        self._events.append(event)
        time = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "action": f"process_{kind}", "process": name, "pid": pid, "detail": detail}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __iter__(self) -> Iterator[StackEvent]:
        return iter(tuple(self._events))
