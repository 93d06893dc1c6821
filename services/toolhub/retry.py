"""When a failed request may be sent again, after which pause, and how many may be in all."""

from __future__ import annotations

from services.toolhub.integrations import Effect, RetryPolicy
from services.toolhub.outcomes import Failure, Reach


def may_repeat(effect: Effect, failure: Failure) -> bool:
    """Tell whether sending the request again can do no harm and some good.

    What was never sent may be repeated whatever it does; what may have been carried out only when the
    operation is harmless (read) or the system deduplicates (idempotent).
    """
    if failure.reach is Reach.NOT_SENT:
        return True
    return effect is not Effect.UNSAFE and failure.transient


def is_settled(failure: Failure) -> bool:
    """Tell whether the failure proves that nothing was carried out."""
    return failure.reach is not Reach.UNKNOWN


def backoff(policy: RetryPolicy, tries: int, draw: float) -> float:
    """Return the pause after so many tries: `draw` of [0, 1) of the exponential bound (full jitter).

    See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    # The exponent is bounded so that no number of tries overflows.
    bound = policy.initial_delay * policy.multiplier ** min(tries - 1, 64)
    return min(policy.max_delay, bound) * draw


def pause_before_retry(
    policy: RetryPolicy, effect: Effect, failure: Failure, tries: int, draw: float
) -> float | None:
    """Return the seconds to wait before the next try; None when there shall be none.

    A longer Retry-After of the system is obeyed.
    """
    if tries >= policy.max_tries or not may_repeat(effect, failure):
        return None
    return max(backoff(policy, tries, draw), failure.retry_after or 0.0)


class RetryBudget:
    """Keeps retries to a share of calls, so that they never become the load that keeps a system down.

    A token bucket: each call brings `ratio` of a token, time brings `floor` tokens a second for those who
    call seldom, a retry costs one, `capacity` are kept at most and there at first. Retries within any
    t seconds therefore number at most `ratio` × calls + `floor` × t + `capacity`.
    """

    def __init__(self, now: float, *, ratio: float = 0.1, floor: float = 0.5, capacity: float = 10.0) -> None:
        self._ratio = ratio
        self._floor = floor
        self._capacity = capacity
        self._tokens = capacity
        self._updated = now

    def call_begins(self) -> None:
        """Count a call."""
        self._tokens = min(self._capacity, self._tokens + self._ratio)

    def spend(self, now: float) -> bool:
        """Take the token of one retry; False when there is none."""
        elapsed = max(0.0, now - self._updated)
        self._updated = now
        self._tokens = min(self._capacity, self._tokens + self._floor * elapsed)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
