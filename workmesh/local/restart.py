"""When a dead process is started again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RestartPolicy:
    """Exponential backoff, quick at first, forgotten after a healthy while. All in seconds."""

    first: float = 0.1
    multiplier: float = 2.0
    longest: float = 5.0
    healthy_after: float = 10.0

    def failures(self, before: int, ready_for: float | None) -> int:
        """Deaths in a row, counting the last one, which came after being ready that long (None: never)."""
        recovered = ready_for is not None and ready_for >= self.healthy_after
        return 1 if recovered else before + 1

    def delay(self, failures: int) -> float:
        """How long to wait after that many deaths in a row."""
        exponent = min(max(failures, 1) - 1, 32)
        return min(self.first * self.multiplier**exponent, self.longest)
