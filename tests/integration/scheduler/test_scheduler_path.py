"""Jobs from the log to instances and back."""

from __future__ import annotations

import asyncio
import itertools
import time

import grpc
import pytest

from tests.integration.scheduler.conftest import Join, StartScheduler, routing, until
from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh import errors
from workmesh.common.v1.job_pb2 import LANE_BATCH, LANE_CRITICAL, LANE_STANDARD
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal
from workmesh.scheduler.v1.lease_service_pb2 import HandlerVersion, Hello, LeaseJobsRequest, Offer
from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceStub
from workmesh.scheduler.v1.scheduler_service_pb2 import DrainInstanceRequest, ListInstancesRequest


async def test_a_created_job_is_offered_and_acknowledged_when_done(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    instance = await join(scheduler)
    (job_id,) = ledger.create(routing())
    assert await instance.wait_finished(1) == [job_id]
    await until(scheduler.is_empty)
    assert len(scheduler.scheduler.inflight) == 0


async def test_four_hundred_mixed_jobs_are_served_without_inversion(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler(standard_share=0.0, batch_share=0.0)
    order = (LANE_BATCH, LANE_CRITICAL, LANE_STANDARD, LANE_BATCH)
    lanes = [order[index % 4] for index in range(400)]
    lane_of = dict(zip(ledger.create(*map(routing, lanes)), lanes, strict=True))
    await until(lambda: scheduler.has_queued(400))
    instance = await join(scheduler, slots=4)
    served = [lane_of[offer.job_id] for offer in await instance.wait_offers(400)]
    assert served == sorted(lanes)


async def test_a_waiting_batch_job_gets_its_published_share_of_the_turns(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler(standard_share=0.0, batch_share=0.1)
    lanes = [LANE_CRITICAL] * 190 + [LANE_BATCH] * 10
    lane_of = dict(zip(ledger.create(*map(routing, lanes)), lanes, strict=True))
    await until(lambda: scheduler.has_queued(200))
    instance = await join(scheduler, slots=1)
    served = [lane_of[offer.job_id] for offer in await instance.wait_offers(110)]
    turns = [turn for turn, lane in enumerate(served) if lane == LANE_BATCH]
    assert len(turns) in (10, 11)
    assert {later - earlier for earlier, later in itertools.pairwise(turns)} <= {9, 10, 11}


async def test_a_critical_job_that_comes_while_all_slots_are_taken_is_next(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    release = asyncio.Semaphore(0)

    async def work(offer: Offer) -> None:
        await release.acquire()

    scheduler = await start_scheduler(standard_share=0.0, batch_share=0.0)
    instance = await join(scheduler, slots=2, work=work)
    ledger.create(*(routing(LANE_BATCH) for _ in range(50)))
    await instance.wait_offers(2)
    critical = ledger.create(*(routing(LANE_CRITICAL) for _ in range(5)))
    await until(lambda: scheduler.has_queued(55))
    for _ in range(20):
        release.release()
    offers = await instance.wait_offers(20)
    assert [offer.job_id for offer in offers[2:7]] == critical
    for _ in range(100):
        release.release()
    await instance.wait_finished(55)


async def test_no_more_messages_are_held_than_there_are_slots(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    scheduler = await start_scheduler()
    instance = await join(scheduler, slots=4, work=work)
    ledger.create(*(routing() for _ in range(100)))
    await instance.wait_offers(4)
    await until(lambda: scheduler.has_queued(100))
    held = len(scheduler.scheduler.inflight) + sum(
        len(list(each.held())) for each in scheduler.scheduler.pools
    )
    assert held == 4
    release.set()
    await instance.wait_finished(100)


async def test_a_job_with_a_run_time_comes_then_and_not_before(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    instance = await join(scheduler)
    began = time.time()
    ledger.create(routing(seconds=0.7))
    await instance.wait_finished(1)
    assert time.time() - began >= 0.7
    assert ledger.refusals == []


async def test_a_failed_attempt_comes_again_after_its_delay(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    async def work(offer: Offer) -> None:
        if offer.dispatch == 1:
            ledger.retry(offer.job_id, 0.3)

    scheduler = await start_scheduler()
    instance = await join(scheduler, work=work)
    ledger.create(routing())
    await instance.wait_finished(1)
    assert [offer.dispatch for offer in instance.taken.offers] == [1, 2]
    await until(scheduler.is_empty)


async def test_an_attempt_longer_than_ack_wait_is_not_delivered_twice(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    async def work(offer: Offer) -> None:
        await asyncio.sleep(2.5)

    scheduler = await start_scheduler(ack_wait_seconds=1.0)
    instance = await join(scheduler, work=work)
    ledger.create(routing())
    await instance.wait_finished(1)
    assert len(instance.taken.offers) == 1
    assert ledger.refusals == []


async def test_a_job_whose_version_nobody_has_blocks_nobody_and_comes_when_somebody_has_it(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler(standard_share=0.0, batch_share=0.0)
    instance = await join(scheduler, slots=2)
    strange = ledger.create(*(routing(LANE_CRITICAL, agent="stranger") for _ in range(20)))
    known = ledger.create(*(routing(LANE_BATCH) for _ in range(20)))
    assert sorted(await instance.wait_finished(20)) == sorted(known)
    other = await join(scheduler, name="agent-2", agents=("stranger",), slots=20)
    began = time.monotonic()
    assert sorted(await other.wait_finished(20)) == sorted(strange)
    # Not at the end of their delays, which are seconds.
    assert time.monotonic() - began < 1.0
    await until(scheduler.is_empty)


async def test_pools_are_kept_apart(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    heavy = await join(scheduler, name="heavy-1", pools=("heavy",))
    light = await join(scheduler, name="light-1", pools=("light",))
    for_heavy = ledger.create(*(routing(pool="heavy") for _ in range(10)))
    for_light = ledger.create(*(routing(pool="light") for _ in range(10)))
    assert sorted(await heavy.wait_finished(10)) == sorted(for_heavy)
    assert sorted(await light.wait_finished(10)) == sorted(for_light)
    assert {each.pool for each in (await scheduler.stats()).queues} == {"heavy", "light"}


async def test_a_refusal_before_its_time_reschedules_the_message(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    (job_id,) = ledger.create(routing())
    await until(lambda: scheduler.has_queued(1))
    # The database's clock says that it is not due yet.
    ledger.jobs[job_id].routing.run_time_micros = round((time.time() + 1.0) * 1e6)
    instance = await join(scheduler)
    await instance.wait_finished(1)
    assert ledger.refusals == [AttemptRefusal.REASON_NOT_DUE]
    await until(scheduler.is_empty)


async def test_a_cancellation_reaches_the_instance_that_runs_the_job(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    holder = await start_scheduler("scheduler-1")
    other = await start_scheduler("scheduler-2")
    assert holder.scheduler.leader.projecting
    instance = await join(other, work=work)
    (job_id,) = ledger.create(routing())
    (offer,) = await instance.wait_offers(1)
    ledger.request_cancel(job_id)
    (cancel,) = await instance.wait_cancels(1)
    assert (cancel.job_id, cancel.lease_id) == (job_id, offer.lease_id)
    release.set()


async def test_an_instance_that_drains_gets_no_offers(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    leaving = await join(scheduler, name="leaving")
    await until(lambda: len(scheduler.scheduler.instances) == 1)
    await scheduler.operations.DrainInstance(DrainInstanceRequest(instance="leaving"), timeout=5)
    await leaving.wait_drained()
    staying = await join(scheduler, name="staying")
    ledger.create(*(routing() for _ in range(20)))
    await staying.wait_finished(20)
    assert leaving.taken.offers == []
    listed = (await scheduler.operations.ListInstances(ListInstancesRequest(), timeout=5)).instances
    assert [(each.instance, each.draining, each.slots) for each in listed] == [
        ("leaving", True, 4),
        ("staying", False, 4),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scheduler.operations.DrainInstance(DrainInstanceRequest(instance="nobody"), timeout=5)
    assert errors.from_rpc_error(refused.value).reason == "INSTANCE_NOT_FOUND"


@pytest.mark.parametrize(
    ("first", "fields"),
    [
        (LeaseJobsRequest(ready=1), {"hello"}),
        (LeaseJobsRequest(hello=Hello()), {"hello.instance", "hello.pools", "hello.slots"}),
        (
            LeaseJobsRequest(
                hello=Hello(
                    instance="a",
                    pools=["a.b", "*"],
                    slots=100_000,
                    handlers=[HandlerVersion(agent="x y", version=1), HandlerVersion(agent="x")],
                )
            ),
            {"hello.pools", "hello.slots", "hello.handlers"},
        ),
    ],
)
async def test_a_bad_hello_is_refused_with_each_field(
    start_scheduler: StartScheduler, first: LeaseJobsRequest, fields: set[str]
) -> None:
    scheduler = await start_scheduler()
    assert scheduler.own is not None
    call = LeaseServiceStub(scheduler.own).LeaseJobs(iter([first]))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    error = errors.from_rpc_error(refused.value)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {each.field for each in error.violations} == fields
    assert len(scheduler.scheduler.instances) == 0
