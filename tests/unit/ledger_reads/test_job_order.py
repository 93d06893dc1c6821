from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.ledger.history_check import NOWHERE, history_faults
from workmesh.job_order import JobOrder, Place

HERE = Place(1, 1, 0)


def numbered(*seqs: int) -> list[tuple[int, Place]]:
    return [(seq, Place(1, height, 0)) for height, seq in enumerate(sorted(seqs), start=1)]


@settings(deadline=None)
@given(st.permutations([(job, seq) for job in "ab" for seq in range(1, 7)]))
def test_whole_histories_are_whole_in_whatever_order_they_come(events: list[tuple[str, int]]) -> None:
    order = JobOrder()
    assert [order.enter(job, seq, HERE) for job, seq in events] == [None] * len(events)
    assert list(order.gaps()) == []


@settings(deadline=None)
@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 7), min_size=1, max_size=7))
def test_every_gap_is_told_once_at_the_event_behind_it(seqs: list[int], missing: set[int]) -> None:
    order = JobOrder()
    for seq in seqs:
        if seq not in missing:
            assert order.enter("a", seq, Place(1, seq, 0)) is None
    behind = [seq for seq in range(2, 9) if seq not in missing and seq - 1 in missing]
    assert [place.height for place, _ in order.gaps()] == behind


@settings(deadline=None)
@given(st.permutations(range(1, 6)), st.integers(1, 5))
def test_a_repeat_is_told_when_it_comes(seqs: list[int], repeated: int) -> None:
    order = JobOrder()
    for seq in seqs:
        order.enter("a", seq, HERE)
    assert order.enter("a", repeated, HERE) == f"job a has its event {repeated} twice"


def test_a_whole_history_has_no_faults() -> None:
    assert list(history_faults("a", 3, numbered(1, 2, 3))) == []


def test_gaps_repeats_and_ends_are_placed() -> None:
    told = [(fault.height, fault.description) for fault in history_faults("a", 8, numbered(2, 3, 3, 6, 7))]
    assert told == [
        (1, "job a lacks its event 1"),
        (3, "job a has its event 3 twice"),
        (4, "job a lacks its events 4 to 5"),
        (5, "job a lacks its event 8"),
    ]


def test_events_beyond_the_jobs_own_count_are_placed() -> None:
    told = [(fault.height, fault.description) for fault in history_faults("a", 1, numbered(1, 2))]
    assert told == [(2, "job a has 1 events, this is number 2")]


def test_a_job_without_events_is_told_of_nowhere() -> None:
    (fault,) = history_faults("a", 2, [])
    assert Place(fault.chain, fault.height, fault.index) == NOWHERE
