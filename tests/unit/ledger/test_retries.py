from __future__ import annotations

from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.retries import Retry, micros_of, next_attempt
from workmesh.common.v1.job_pb2 import RetryPolicy


def policy(most: int, initial: int, multiplier: float, cap: int) -> RetryPolicy:
    made = RetryPolicy(max_attempts=most, multiplier=multiplier, non_retryable_reasons=["POISON"])
    made.initial_delay.FromMicroseconds(initial)
    made.max_delay.FromMicroseconds(cap)
    return made


POLICIES = st.builds(
    policy,
    st.integers(1, 100),
    st.integers(10_000, 10_000_000),
    st.floats(1.0, 10.0),
    st.integers(10_000, 86_400_000_000),
)


@given(POLICIES, st.integers(1, 100), st.floats(0.0, 1.0, exclude_max=True), st.integers(0, 86_400_000_000))
def test_a_delay_lies_within_the_policys_bound_or_is_what_was_asked_for(
    policy: RetryPolicy, attempt: int, draw: float, asked: int
) -> None:
    retry = next_attempt(policy, attempt, "HANDLER_FAILED", asked, lambda: draw)
    if attempt >= policy.max_attempts:
        assert retry is None
        return
    assert retry is not None
    bound = min(
        float(micros_of(policy.max_delay)),
        micros_of(policy.initial_delay) * policy.multiplier ** (attempt - 1),
    )
    assert asked <= retry.delay_micros <= max(asked, bound + 1)


@given(POLICIES, st.integers(1, 99))
def test_a_larger_draw_never_means_a_shorter_delay(policy: RetryPolicy, attempt: int) -> None:
    delays = [next_attempt(policy, attempt, "", 0, lambda draw=draw: draw) for draw in (0.0, 0.3, 0.9)]  # type: ignore[misc]
    if None not in delays:
        assert delays == sorted(delays, key=lambda each: each.delay_micros if each else 0)
        assert delays[0] == Retry(0)


def test_a_reason_that_the_policy_names_is_not_retried() -> None:
    strict = policy(10, 1_000_000, 2.0, 60_000_000)
    assert next_attempt(strict, 1, "POISON", 0, lambda: 0.5) is None
    assert next_attempt(strict, 1, "OTHER", 0, lambda: 0.5) == Retry(500_000)
    assert next_attempt(strict, 3, "OTHER", 0, lambda: 0.5) == Retry(2_000_000)
    assert next_attempt(strict, 9, "OTHER", 0, lambda: 0.5) == Retry(30_000_000)


def test_durations_are_whole_microseconds() -> None:
    assert micros_of(Duration(seconds=2, nanos=1_999)) == 2_000_001
