"""The bulkhead keeps its bounds whatever its callers do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.toolhub.budget import Budget
from services.toolhub.bulkhead import Bulkhead
from services.toolhub.flight import Flight
from services.toolhub.integrations import Bounds
from workmesh.clock import SystemClock
from workmesh.errors import MeshError

# A busy machine is no reason to fail.
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

CLOCK = SystemClock()


def lasting(seconds: float, *, caller_bound: bool = False) -> Budget:
    return Budget(CLOCK.monotonic() + seconds, 1.0, caller_bound)


async def hold(bulkhead: Bulkhead, release: asyncio.Event, order: list[int], number: int) -> None:
    async with bulkhead.slot(lasting(60)):
        order.append(number)
        await release.wait()


async def test_waiters_are_served_in_the_order_they_came() -> None:
    bulkhead, release, order = Bulkhead("erp", Bounds(1, 10), CLOCK), asyncio.Event(), list[int]()
    tasks = [asyncio.create_task(hold(bulkhead, release, order, number)) for number in range(6)]
    await asyncio.sleep(0)
    assert (bulkhead.running, bulkhead.waiting) == (1, 5)
    release.set()
    await asyncio.gather(*tasks)
    assert order == list(range(6))
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    bulkhead, release, order = Bulkhead("erp", Bounds(1, 10), CLOCK), asyncio.Event(), list[int]()
    first = asyncio.create_task(hold(bulkhead, release, order, 1))
    await asyncio.sleep(0)
    second = asyncio.create_task(hold(bulkhead, release, order, 2))
    await asyncio.sleep(0)
    release.set()
    await first
    await hold(bulkhead, release, order, 3)
    await second
    assert order == [1, 2, 3]


@pytest.mark.parametrize(("caller_bound", "reason"), [(True, "DEADLINE_EXCEEDED"), (False, "QUEUE_FULL")])
async def test_a_wait_ends_with_the_budget(caller_bound: bool, reason: str) -> None:
    bulkhead = Bulkhead("erp", Bounds(1, 10), CLOCK)
    async with bulkhead.slot(lasting(60)):
        with pytest.raises(MeshError) as caught:
            async with bulkhead.slot(lasting(0.01, caller_bound=caller_bound)):
                pytest.fail("there was no room")
        assert caught.value.reason == reason
        assert bulkhead.waiting == 0
    assert bulkhead.running == 0


async def test_a_cancelled_waiter_passes_its_place_on() -> None:
    bulkhead, release, order = Bulkhead("erp", Bounds(1, 10), CLOCK), asyncio.Event(), list[int]()
    async with bulkhead.slot(lasting(60)):
        second, third = (asyncio.create_task(hold(bulkhead, release, order, number)) for number in (2, 3))
        await asyncio.sleep(0)
    # The place is the second's now, though it has not run since.
    second.cancel()
    release.set()
    await asyncio.gather(second, return_exceptions=True)
    await asyncio.wait_for(third, 5)
    assert order == [3]
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


@PATIENT
@given(
    st.integers(1, 3),
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from(["come", "go", "cancel"]), st.integers(0, 9)), max_size=40),
)
def test_bounds_hold_whoever_comes_goes_or_is_cancelled(
    running: int, waiting: int, steps: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        bulkhead = Bulkhead("erp", Bounds(running, waiting), CLOCK)
        inside: set[int] = set()
        releases: list[asyncio.Event] = []
        tasks: list[asyncio.Task[None]] = []

        async def visit(number: int, release: asyncio.Event) -> None:
            async with bulkhead.slot(lasting(60)):
                inside.add(number)
                try:
                    await release.wait()
                finally:
                    inside.discard(number)

        for step, choice in steps:
            if step == "come":
                releases.append(asyncio.Event())
                tasks.append(asyncio.create_task(visit(len(tasks), releases[-1])))
            elif tasks and step == "go":
                releases[choice % len(tasks)].set()
            elif tasks:
                tasks[choice % len(tasks)].cancel()
            for _ in range(choice % 4):
                await asyncio.sleep(0)
            assert len(inside) <= bulkhead.running <= running
            assert bulkhead.waiting <= waiting
        for release in releases:
            release.set()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, MeshError | asyncio.CancelledError) for end in ends)
        assert (bulkhead.running, bulkhead.waiting) == (0, 0)

    asyncio.run(scenario())


async def test_an_abandoned_flight_is_cancelled_at_once_when_nothing_is_at_stake() -> None:
    flight = Flight()
    flight.task = asyncio.create_task(asyncio.Event().wait())
    flight.abandon()
    with pytest.raises(asyncio.CancelledError):
        await flight.task


async def test_an_abandoned_flight_that_is_held_goes_on_until_it_is_let_go() -> None:
    flight, go, done = Flight(), asyncio.Event(), list[str]()

    async def fly() -> None:
        with flight.hold():
            with flight.hold():
                await go.wait()
            await asyncio.sleep(0)
            done.append("held")
        await asyncio.sleep(0)
        done.append("let go")

    flight.task = asyncio.create_task(fly())
    await asyncio.sleep(0)
    flight.abandon()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await flight.task
    assert done == ["held"]
