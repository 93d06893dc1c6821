"""How long a call may take: the least of integration's budget, caller's deadline and each try's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.toolhub.integrations import Timeouts
from workmesh import errors

LEAST_SECONDS: Final = 0.01
"""With less left nothing is sent: the answer would come too late to be of use."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The time of one call, on the monotonic clock: `end`, and the seconds that one try may take.

    `caller_bound` tells that it is the caller's deadline that ends it, not the integration's own budget.
    """

    end: float
    per_try: float
    caller_bound: bool

    def remaining(self, now: float) -> float:
        """Return the seconds left; negative once it is spent."""
        return self.end - now

    def allows(self, now: float, pause: float = 0.0) -> bool:
        """Tell whether something may still be begun after a pause."""
        return self.remaining(now) - pause >= LEAST_SECONDS


def open_budget(timeouts: Timeouts, caller_seconds: float | None, now: float) -> Budget:
    """Return the budget of a call whose caller waits so many seconds (None: as long as it takes).

    DEADLINE_EXCEEDED when too little is left to begin.
    """
    if caller_seconds is not None and caller_seconds < LEAST_SECONDS:
        raise errors.deadline_exceeded("too little of the caller's deadline is left to begin the call")
    caller_bound = caller_seconds is not None and caller_seconds <= timeouts.total
    seconds = timeouts.total if caller_seconds is None else min(timeouts.total, caller_seconds)
    return Budget(now + seconds, timeouts.per_try, caller_bound)
