"""Time as a collaborator, so that policies are tested without waiting."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What services ask for the time."""

    def time(self) -> float:
        """Return seconds since the epoch; may jump."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; never goes back."""


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test advances it."""

    def __init__(self, time: float = 1_800_000_000.0, monotonic: float = 1_000.0) -> None:
        self._time = time
        self._monotonic = monotonic

    def time(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both readings forward; ValueError for a negative step."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self._time += seconds
        self._monotonic += seconds


def micros(seconds: float) -> int:
    """Return seconds since the epoch as the whole microseconds of internal contracts."""
    return round(seconds * 1_000_000)
