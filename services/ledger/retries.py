"""The retry policy: whether another attempt follows a failed one, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from workmesh.common.v1.job_pb2 import RetryPolicy


@dataclass(frozen=True, slots=True)
class Retry:
    """Another attempt may begin after so many microseconds."""

    delay_micros: int


def next_attempt(
    policy: RetryPolicy, attempt: int, reason: str, retry_after_micros: int, draw: Callable[[], float]
) -> Retry | None:
    """Return when the attempt after a failed one may begin; None if the policy allows none.

    The delay is drawn uniformly from [0, min(max_delay, initial_delay * multiplier^(attempt - 1))], which
    is full jitter (Brooker, "Exponential Backoff and Jitter", 2015), or what the failing system asked for
    when that is longer.
    """
    if attempt >= policy.max_attempts or reason in policy.non_retryable_reasons:
        return None
    return Retry(max(round(draw() * _bound(policy, attempt)), retry_after_micros))


def _bound(policy: RetryPolicy, attempt: int) -> float:
    cap = micros_of(policy.max_delay)
    # 10 to the 99th is a float still, and the cap bounds the product.
    return min(float(cap), micros_of(policy.initial_delay) * policy.multiplier ** (attempt - 1))


def micros_of(duration: Duration) -> int:
    """Return a duration in whole microseconds."""
    return duration.seconds * 1_000_000 + duration.nanos // 1000
