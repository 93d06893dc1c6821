"""Whose turn it is."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.lanes import LanePolicy, Turns, apportion, next_turn

CRITICAL, STANDARD, BATCH = range(3)
STRICT = LanePolicy((0.0, 0.0, 0.0))
SHARED = LanePolicy((0.0, 0.1, 0.05))
ALL = (True, True, True)

shares = st.tuples(st.just(0.0), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
backlogs = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()).filter(any), max_size=300)


def serve(policy: LanePolicy, turns: int, waiting: tuple[bool, bool, bool] = ALL) -> list[int]:
    owed = Turns()
    served = []
    for _ in range(turns):
        lane, owed = next_turn(policy, owed, waiting)
        served.append(lane)
    return served


@pytest.mark.parametrize(
    ("waiting", "lane"),
    [
        (ALL, CRITICAL),
        ((False, True, True), STANDARD),
        ((False, False, True), BATCH),
        ((True, False, True), CRITICAL),
    ],
)
def test_without_shares_the_most_urgent_waiting_lane_has_every_turn(
    waiting: tuple[bool, bool, bool], lane: int
) -> None:
    assert set(serve(STRICT, 100, waiting)) == {lane}


def test_a_waiting_lane_gets_its_share_and_no_more() -> None:
    counts = Counter(serve(SHARED, 2_000))
    assert abs(counts[STANDARD] - 200) <= 1
    assert abs(counts[BATCH] - 100) <= 1


def test_the_turns_of_a_share_are_evenly_spread() -> None:
    turns = [turn for turn, lane in enumerate(serve(SHARED, 1_000)) if lane == STANDARD]
    assert {later - earlier for earlier, later in itertools.pairwise(turns)} <= {9, 10, 11}


def test_the_same_backlog_gives_the_same_order() -> None:
    assert serve(SHARED, 500) == serve(SHARED, 500)


def test_a_lane_that_did_not_wait_has_saved_nothing_up() -> None:
    owed = Turns()
    for _ in range(1_000):
        _, owed = next_turn(SHARED, owed, (True, False, False))
    assert owed == Turns()


@given(shares, st.integers(0, 1), backlogs)
def test_no_waiting_lane_waits_longer_than_published(
    least: tuple[float, float, float], which: int, history: list[tuple[bool, bool, bool]]
) -> None:
    policy = LanePolicy(least)
    lane = (STANDARD, BATCH)[which]
    bound = policy.longest_wait(lane)
    assert bound is not None
    owed = Turns()
    for waiting in history:
        _, owed = next_turn(policy, owed, waiting)
    # From now on everything waits, whatever was owed to others before.
    for _ in range(bound):
        served, owed = next_turn(policy, owed, ALL)
        if served == lane:
            return
    pytest.fail(f"lane {lane} was not served within {bound} turns")


@given(shares, backlogs)
def test_only_a_waiting_lane_is_served_and_nothing_is_owed_beyond_reason(
    least: tuple[float, float, float], history: list[tuple[bool, bool, bool]]
) -> None:
    owed = Turns()
    for waiting in history:
        lane, owed = next_turn(LanePolicy(least), owed, waiting)
        assert waiting[lane]
        assert all(0.0 <= due < 2.0 for due in owed.owed)


@given(shares, st.integers(1, 100))
def test_slots_given_together_go_where_single_turns_would(
    least: tuple[float, float, float], slots: int
) -> None:
    policy = LanePolicy(least)
    counts, _ = apportion(policy, Turns(), slots, ALL)
    single = Counter(serve(policy, slots))
    assert counts == [single[lane] for lane in range(3)]


def test_without_a_waiting_lane_no_slot_is_given() -> None:
    assert apportion(SHARED, Turns(), 8, (False, False, False)) == ([0, 0, 0], Turns())


@pytest.mark.parametrize("wrong", [(0.0, 0.5, 0.5), (0.0, 0.1), (0.0, -0.1, 0.0), (1.0, 0.0, 0.0)])
def test_shares_that_leave_no_order_are_refused(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="share"):
        LanePolicy(wrong)


def test_a_lane_without_a_share_has_no_bound() -> None:
    assert SHARED.longest_wait(CRITICAL) is None
