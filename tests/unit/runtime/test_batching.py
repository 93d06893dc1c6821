from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workmesh import errors
from workmesh.batching import Batcher
from workmesh.errors import MeshError


class Flusher:
    """Records batches and lets a test hold them back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.flying = 0
        self.most_flying = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []

    async def __call__(self, items: list[int]) -> Sequence[str]:
        self.batches.append(items)
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            return [str(item) for item in items]
        finally:
            self.flying -= 1


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_one_loop_turn_submits_is_one_batch_in_order() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test")
    answered = await asyncio.gather(*(batcher.call(item) for item in range(50)))
    assert answered == [str(item) for item in range(50)]
    assert flusher.batches == [list(range(50))]


async def test_an_idle_batcher_flushes_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test")

    def no_timer(*arguments: object, **names: object) -> asyncio.TimerHandle:
        raise AssertionError("an idle batcher set a timer")

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", no_timer)
    assert await batcher.call(1) == "1"
    await turns()
    assert await batcher.call(2) == "2"
    monkeypatch.undo()
    assert flusher.batches == [[1], [2]]


async def test_what_arrives_during_the_flights_forms_the_next_batch() -> None:
    flusher = Flusher()
    flusher.gate.clear()
    batcher = Batcher(flusher, name="test", flights=2)
    first = batcher.submit([1])
    await turns()
    second = batcher.submit([2])
    await turns()
    waiting = [batcher.submit([item]) for item in (3, 4, 5)]
    await turns()
    assert flusher.batches == [[1], [2]]
    flusher.gate.set()
    assert await asyncio.gather(first, second, *waiting) == [["1"], ["2"], ["3"], ["4"], ["5"]]
    assert flusher.batches == [[1], [2], [3, 4, 5]]
    assert flusher.most_flying == 2


async def test_a_failing_flush_fails_its_own_groups_only() -> None:
    flusher = Flusher()
    flusher.failures.append(errors.unavailable("DEPENDENCY_DOWN", "gone"))
    batcher = Batcher(flusher, name="test", flights=1)
    failing = [batcher.submit([1]), batcher.submit([2])]
    await turns(1)
    standing = batcher.submit([3])
    failed = await asyncio.gather(*failing, return_exceptions=True)
    assert all(isinstance(each, MeshError) and each.reason == "DEPENDENCY_DOWN" for each in failed)
    assert failed[0] is not failed[1]
    assert await standing == ["3"]
    assert batcher.stats().failed_batches == 1


async def test_a_flush_that_answers_too_little_fails_and_never_shifts_answers() -> None:
    async def short(items: list[int]) -> list[int]:
        return items[:-1]

    batcher = Batcher(short, name="test")
    with pytest.raises(RuntimeError, match="answered 1 results for 2 items"):
        await batcher.submit([1, 2])


async def test_a_group_beyond_the_batch_size_is_split_and_answered_whole() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", max_items=4)
    assert await batcher.submit(list(range(10))) == [str(item) for item in range(10)]
    assert flusher.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_group_that_fits_a_batch_is_never_split() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", max_items=4)
    await asyncio.gather(batcher.submit([1, 2, 3]), batcher.submit([4, 5, 6]), batcher.submit([7]))
    assert flusher.batches == [[1, 2, 3], [4, 5, 6, 7]]


async def test_bytes_bound_a_batch_but_a_single_group_may_exceed_them() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", max_bytes=10, size_of=lambda item: item)
    await asyncio.gather(*(batcher.call(size) for size in (6, 4, 1, 50, 9)))
    assert flusher.batches == [[6, 4], [1], [50], [9]]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    flusher = Flusher()
    flusher.gate.clear()
    batcher = Batcher(flusher, name="test", flights=1, max_queued=3)
    accepted = [batcher.submit([0])]
    await turns()
    accepted += [batcher.submit([item]) for item in (1, 2, 3)]
    with pytest.raises(MeshError) as refused:
        batcher.submit([4])
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refused.value.retry_after is not None
    assert refused.value.retry_after > 0
    flusher.gate.set()
    assert await asyncio.gather(*accepted) == [["0"], ["1"], ["2"], ["3"]]
    assert batcher.stats().refused_items == 1


async def test_bytes_bound_the_queue_too() -> None:
    flusher = Flusher()
    flusher.gate.clear()
    batcher = Batcher(flusher, name="test", flights=1, size_of=lambda item: item, max_queued_bytes=100)
    accepted = [batcher.submit([60])]
    await turns()
    accepted.append(batcher.submit([60]))
    with pytest.raises(MeshError, match="QUEUE_FULL"):
        batcher.submit([60])
    flusher.gate.set()
    await asyncio.gather(*accepted)


async def test_a_cancelled_group_is_taken_back_while_it_waits() -> None:
    flusher = Flusher()
    flusher.gate.clear()
    batcher = Batcher(flusher, name="test", flights=1)
    first = batcher.submit([1])
    await turns()
    batcher.submit([2]).cancel()
    third = batcher.submit([3])
    flusher.gate.set()
    assert await first == ["1"]
    assert await third == ["3"]
    assert flusher.batches == [[1], [3]]


async def test_cancelling_a_caller_does_not_cancel_the_flush_of_its_neighbours() -> None:
    flusher = Flusher()
    flusher.gate.clear()
    batcher = Batcher(flusher, name="test")
    gone, stays = batcher.submit([1]), batcher.submit([2])
    await turns()
    gone.cancel()
    flusher.gate.set()
    assert await stays == ["2"]


async def test_a_pace_spaces_the_flushes_and_lets_the_first_go_at_once() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", pace=0.05)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await batcher.call(1)
    await asyncio.gather(batcher.call(2), batcher.call(3))
    assert loop.time() - start >= 0.05
    assert flusher.batches == [[1], [2, 3]]


async def test_a_full_batch_does_not_wait_for_the_pace() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", pace=60.0, max_items=4)
    await batcher.call(0)
    early = batcher.submit([1])
    await turns()
    assert await batcher.submit([2, 3, 4]) == ["2", "3", "4"]
    assert await early == ["1"]
    assert flusher.batches == [[0], [1, 2, 3, 4]]


async def test_closing_answers_what_is_queued_and_refuses_what_comes_after() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test", pace=60.0, flights=1)
    await batcher.call(0)
    waiting = [batcher.submit([item]) for item in (1, 2)]
    await batcher.close()
    assert [each.result() for each in waiting] == [["1"], ["2"]]
    with pytest.raises(MeshError, match="DRAINING"):
        batcher.submit([3])


async def test_no_items_are_answered_with_no_results() -> None:
    flusher = Flusher()
    batcher = Batcher(flusher, name="test")
    assert await batcher.submit([]) == []
    assert flusher.batches == []


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.lists(st.integers(0, 9), max_size=12), max_size=30),
    pauses=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    max_items=st.integers(1, 8),
    flights=st.integers(1, 3),
    broken=st.sets(st.integers(0, 9), max_size=1),
)
def test_each_item_is_answered_exactly_once_and_in_order(
    groups: list[list[int]], pauses: list[int], max_items: int, flights: int, broken: set[int]
) -> None:
    async def scenario() -> None:
        batches: list[list[tuple[int, int, int]]] = []

        async def flush(items: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
            batches.append(items)
            await turns(items[0][2] % 4)
            if any(value in broken for _, _, value in items):
                raise ValueError("broken")
            return items

        batcher = Batcher(flush, name="test", max_items=max_items, flights=flights)
        submitted = []
        for number, group in enumerate(groups):
            items = [(number, place, value) for place, value in enumerate(group)]
            submitted.append((items, batcher.submit(items)))
            await turns(pauses[number])
        await batcher.close()
        answers = await asyncio.gather(*(future for _, future in submitted), return_exceptions=True)
        flushed = [item for batch in batches for item in batch]
        assert flushed == [item for items, _ in submitted for item in items]
        assert all(len(batch) <= max_items for batch in batches)
        for (items, _), answer in zip(submitted, answers, strict=True):
            spoilt = any(set(items) & set(batch) for batch in batches if {v for _, _, v in batch} & broken)
            assert isinstance(answer, ValueError) if spoilt else answer == items

    asyncio.run(scenario())
