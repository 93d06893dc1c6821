from __future__ import annotations

import time

import asyncpg

from tests.integration.ledger_reads.mesh import ALLOWANCE_MICROS, Ledger
from tests.integration.ledger_reads.served import Served
from workmesh.common.v1 import job_pb2 as states
from workmesh.common.v1.job_pb2 import Lane
from workmesh.ledger.v1 import ledger_read_service_pb2 as pb

HOUR_MICROS = 3_600_000_000


def now_micros() -> int:
    return time.time_ns() // 1_000


async def live(served: Served, **fields: object) -> tuple[list[int], list[pb.LiveJob]]:
    """Return the sizes of the messages after the heads, and all jobs."""
    request = pb.StreamLiveJobsRequest(**fields)  # type: ignore[arg-type]
    sizes, jobs = [], []
    async for message in served.reads.StreamLiveJobs(request, timeout=20):
        sizes.append(len(message.jobs))
        jobs += list(message.jobs)
        assert bool(message.heads) == (len(sizes) == 1)
    return sizes[1:], jobs


async def test_live_jobs_carry_what_queues_need(ledger: Ledger, served: Served) -> None:
    run_time = now_micros() + HOUR_MICROS
    (queued,) = await ledger.create(lane=Lane.LANE_BATCH, pool="heavy")
    (scheduled,) = await ledger.create(run_time_micros=run_time)
    (running,) = await ledger.create()
    await ledger.begin(running)
    (done,) = await ledger.run()
    (cancelled,) = await ledger.create()
    await ledger.cancel(cancelled)
    _, jobs = await live(served)
    assert [job.job_id for job in jobs] == [queued, scheduled, running]
    (record,) = (await served.reads.GetJobs(pb.GetJobsRequest(job_ids=[running]), timeout=5)).jobs
    by_id = {job.job_id: job for job in jobs}
    routing = by_id[queued].routing
    assert (routing.pool, routing.lane, routing.agent, routing.version) == (
        "heavy",
        Lane.LANE_BATCH,
        "booking",
        1,
    )
    assert (routing.dispatch, routing.fairness_key, routing.run_time_micros) == (1, "client-a", 0)
    assert 0 < by_id[queued].runnable_time_micros <= now_micros()
    assert by_id[scheduled].routing.run_time_micros == run_time
    assert by_id[scheduled].runnable_time_micros == run_time
    assert by_id[running].state == states.JOB_STATE_RUNNING
    free = record.lease_expire_micros + ALLOWANCE_MICROS
    assert by_id[running].routing.run_time_micros == free
    assert by_id[running].runnable_time_micros == free
    assert by_id[queued].traceparent
    assert done not in by_id


async def test_live_jobs_come_in_batches_of_at_most_512(ledger: Ledger, served: Served) -> None:
    job_ids = [job_id for _ in range(6) for job_id in await ledger.create(200)]
    sizes, jobs = await live(served)
    assert sizes == [512, 512, 176]
    assert [job.job_id for job in jobs] == job_ids


async def test_live_jobs_are_those_of_the_heads_sent_with_them(ledger: Ledger, served: Served) -> None:
    known = [job_id for _ in range(3) for job_id in await ledger.create(200)]
    stream = served.reads.StreamLiveJobs(pb.StreamLiveJobsRequest(), timeout=20)
    iterator = aiter(stream)
    first = await anext(iterator)
    await ledger.create(50)
    for job_id in known[:50]:
        await ledger.cancel(job_id)
    jobs = [job.job_id async for message in iterator for job in message.jobs]
    assert jobs == known
    heights = {head.chain: head.height for head in first.heads}
    created = [block for block in ledger.blocks.all if block.height <= heights[block.chain]]
    assert sum(block.event_count for block in created) == len(known) + len(heights)


async def test_live_jobs_are_filtered_by_pool_time_and_number(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    (heavy,) = await ledger.create(pool="heavy")
    queued, scheduled, expired, running = await ledger.create(4)
    await ledger.begin(expired, running)
    now = now_micros()
    old = now - 60_000_000
    sql = "update jobs set lease_expire_micros = $2 where job_id = $1"
    await superuser.execute(sql, expired, old)
    sql = "update jobs set state = 1, run_time_micros = $2 where job_id = $1"
    await superuser.execute(sql, scheduled, old)
    sql = "update jobs set update_time_micros = $2 where job_id = $1"
    await superuser.execute(sql, queued, old)

    async def found(**fields: object) -> list[str]:
        return [job.job_id for job in (await live(served, **fields))[1]]

    assert await found(pool="heavy") == [heavy]
    overdue = now - 30_000_000
    assert await found(runnable_before_micros=overdue) == [queued, scheduled, expired]
    assert await found(runnable_before_micros=overdue, limit=2) == [queued, scheduled]
    assert await found(runnable_before_micros=overdue, pool="heavy") == []
    # The lease's end alone is not enough: the clock allowance must have passed too.
    assert await found(runnable_before_micros=old + ALLOWANCE_MICROS) == [queued, scheduled]
    assert await found(limit=1) == [heavy]


async def test_slow_readers_of_live_jobs_leave_connections_for_look_ups(
    ledger: Ledger, served: Served
) -> None:
    job_ids = [job_id for _ in range(6) for job_id in await ledger.create(200)]
    streams = [served.reads.StreamLiveJobs(pb.StreamLiveJobsRequest(), timeout=30) for _ in range(6)]
    iterators = [aiter(stream) for stream in streams]
    for iterator in iterators[:2]:
        await anext(iterator)
    request = pb.GetJobsRequest(job_ids=job_ids[:10])
    assert len((await served.reads.GetJobs(request, timeout=10)).jobs) == 10
    for stream in streams[:2]:
        stream.cancel()
    for iterator in iterators[2:]:
        assert sum([len(message.jobs) async for message in iterator]) == len(job_ids)


async def test_abandoned_streams_of_live_jobs_give_their_connections_back(
    ledger: Ledger, served: Served
) -> None:
    for _ in range(6):
        await ledger.create(200)
    for _ in range(12):
        stream = served.reads.StreamLiveJobs(pb.StreamLiveJobsRequest(), timeout=20)
        async for _message in stream:
            break
        stream.cancel()
    assert (await served.reads.CountJobs(pb.CountJobsRequest(), timeout=5)).counts[0].count == 1_200


async def test_counts_are_by_pool_lane_and_state(ledger: Ledger, served: Served) -> None:
    await ledger.create(3)
    await ledger.create(2, pool="heavy", lane=Lane.LANE_BATCH)
    await ledger.begin(*await ledger.create(1))
    await ledger.run(1)
    counts = (await served.reads.CountJobs(pb.CountJobsRequest(), timeout=5)).counts
    assert [(each.pool, each.lane, each.state, each.count) for each in counts] == [
        ("default", Lane.LANE_STANDARD, states.JOB_STATE_QUEUED, 3),
        ("default", Lane.LANE_STANDARD, states.JOB_STATE_RUNNING, 1),
        ("heavy", Lane.LANE_BATCH, states.JOB_STATE_QUEUED, 2),
    ]
