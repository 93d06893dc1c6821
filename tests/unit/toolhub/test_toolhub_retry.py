"""Budgets and retries: the invariants that keep a failing system from being hammered."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.toolhub.budget import LEAST_SECONDS, open_budget
from services.toolhub.integrations import Effect, RetryPolicy, Timeouts
from services.toolhub.outcomes import Failure, Reach
from services.toolhub.retry import RetryBudget, backoff, is_settled, may_repeat, pause_before_retry
from workmesh.errors import MeshError

# A busy machine is no reason to fail.
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

seconds = st.floats(0.001, 1e4)
policies = st.builds(
    RetryPolicy,
    max_tries=st.integers(1, 10),
    initial_delay=st.floats(0.001, 60),
    multiplier=st.floats(1, 10),
    max_delay=st.floats(0.001, 300),
)
failures = st.builds(
    Failure,
    reach=st.sampled_from(Reach),
    message=st.just(""),
    transient=st.booleans(),
    retry_after=st.none() | st.floats(0, 1e5),
)


@pytest.mark.parametrize(
    ("effect", "reach", "transient", "repeated"),
    [
        *((effect, Reach.NOT_SENT, True, True) for effect in Effect),
        *(
            (Effect.UNSAFE, reach, transient, False)
            for reach in (Reach.DECLINED, Reach.UNKNOWN)
            for transient in (True, False)
        ),
        *(
            (effect, reach, True, True)
            for effect in (Effect.READ, Effect.IDEMPOTENT)
            for reach in (Reach.DECLINED, Reach.UNKNOWN)
        ),
        *(
            (effect, reach, False, False)
            for effect in (Effect.READ, Effect.IDEMPOTENT)
            for reach in (Reach.DECLINED, Reach.UNKNOWN)
        ),
    ],
)
def test_what_may_be_repeated(effect: Effect, reach: Reach, transient: bool, repeated: bool) -> None:
    assert may_repeat(effect, Failure(reach, "", transient)) is repeated


@PATIENT
@given(failures)
def test_what_is_not_settled_is_never_repeated_when_unsafe(failure: Failure) -> None:
    assert is_settled(failure) or not may_repeat(Effect.UNSAFE, failure)


@PATIENT
@given(policies, st.sampled_from(Effect), failures, st.integers(1, 20), st.floats(0, 1, exclude_max=True))
def test_a_pause_obeys_policy_and_retry_after(
    policy: RetryPolicy, effect: Effect, failure: Failure, tries: int, draw: float
) -> None:
    pause = pause_before_retry(policy, effect, failure, tries, draw)
    if tries >= policy.max_tries or not may_repeat(effect, failure):
        assert pause is None
    else:
        assert pause is not None
        assert pause >= (failure.retry_after or 0.0)
        assert pause <= max(policy.max_delay, failure.retry_after or 0.0)


@PATIENT
@given(policies, st.floats(0, 1, exclude_max=True))
def test_the_bound_of_the_pause_grows_to_its_cap(policy: RetryPolicy, draw: float) -> None:
    pauses = [backoff(policy, tries, draw) for tries in range(1, 200)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(pauses))
    assert all(0 <= pause <= policy.max_delay for pause in pauses)
    assert pauses[0] <= policy.initial_delay


@PATIENT
@given(st.lists(st.sampled_from(["call", "retry", "wait"]), max_size=300), st.floats(0.01, 10))
def test_retries_stay_within_their_share_of_calls(steps: list[str], pause: float) -> None:
    now, calls, retries = 0.0, 0, 0
    budget = RetryBudget(now, ratio=0.1, floor=0.5, capacity=10.0)
    for step in steps:
        if step == "call":
            budget.call_begins()
            calls += 1
        elif step == "retry":
            retries += budget.spend(now)
        else:
            now += pause
        assert retries <= 0.1 * calls + 0.5 * now + 10.0 + 1e-6


def test_a_budget_that_is_spent_comes_back_slowly_with_time() -> None:
    budget = RetryBudget(0.0, ratio=0.1, floor=0.5, capacity=2.0)
    assert [budget.spend(0.0) for _ in range(3)] == [True, True, False]
    assert [budget.spend(now) for now in (1.9, 2.1, 3.9, 4.2)] == [False, True, False, True]


@PATIENT
@given(st.builds(Timeouts, seconds, seconds), st.none() | st.floats(-10, 1e5), st.floats(0, 1e9))
def test_a_budget_is_the_least_of_what_bounds_it(
    timeouts: Timeouts, caller: float | None, now: float
) -> None:
    if caller is not None and caller < LEAST_SECONDS:
        with pytest.raises(MeshError) as caught:
            open_budget(timeouts, caller, now)
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        return
    budget = open_budget(timeouts, caller, now)
    least = timeouts.total if caller is None else min(timeouts.total, caller)
    assert budget.remaining(now) == pytest.approx(least, abs=1e-6 + now * 1e-12)
    assert budget.caller_bound == (caller is not None and caller <= timeouts.total)
    assert budget.allows(budget.end - LEAST_SECONDS * 1.01) or now > 1e6
    assert not budget.allows(budget.end)
    assert not budget.allows(now, pause=least)
