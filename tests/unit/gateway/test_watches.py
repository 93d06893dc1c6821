"""Waiting for jobs to change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.gateway.watches import JobWatch, Watches
from workmesh.common.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED
from workmesh.errors import MeshError
from workmesh.ledger.v1.job_pb2 import JobRecord


async def test_a_change_that_came_before_the_wait_is_not_missed() -> None:
    watches = Watches(10)
    with JobWatch(watches, "job") as watch:
        watches.changed("job", 2, JOB_STATE_RUNNING)
        assert await watch.wait_after(1, 5)


async def test_a_stale_hint_wakes_nobody() -> None:
    watches = Watches(10)
    with JobWatch(watches, "job") as watch:
        watches.changed("job", 2, JOB_STATE_RUNNING)
        assert await watch.wait_after(1, 5)
        watches.changed("job", 2, JOB_STATE_RUNNING)
        assert not await watch.wait_after(2, 0)


async def test_every_watcher_of_a_job_hears_of_it_and_none_of_another() -> None:
    watches = Watches(10)
    with JobWatch(watches, "a") as first, JobWatch(watches, "a") as second, JobWatch(watches, "b") as other:
        watches.changed("a", 1, JOB_STATE_SUCCEEDED)
        assert await first.wait_after(0, 5)
        assert await second.wait_after(0, 5)
        assert not await other.wait_after(0, 0)


def test_a_watch_leaves_nothing_behind() -> None:
    watches = Watches(10)
    with JobWatch(watches, "a"), JobWatch(watches, "a"), JobWatch(watches, "b"):
        assert len(watches) == 2
    assert len(watches) == 0


def test_more_jobs_than_allowed_are_refused_but_a_followed_one_never() -> None:
    watches = Watches(1)
    with JobWatch(watches, "a"):
        with JobWatch(watches, "a"):
            pass
        with pytest.raises(MeshError, match="LIMIT_EXCEEDED"), JobWatch(watches, "b"):
            pass


async def test_a_sweep_finds_what_a_lost_hint_would_have_told() -> None:
    watches = Watches(5_000)
    asked: list[int] = []

    async def read(job_ids: Sequence[str]) -> list[JobRecord]:
        asked.append(len(job_ids))
        return [JobRecord(job_id=each, seq=7, state=JOB_STATE_SUCCEEDED) for each in job_ids]

    watched = [JobWatch(watches, f"job-{index}") for index in range(2_500)]
    for watch in watched:
        watch.__enter__()
    waiting = asyncio.gather(*(watch.wait_after(6, 10) for watch in watched))
    await watches.sweep(read)
    assert all(await waiting)
    assert asked == [1_000, 1_000, 500]
