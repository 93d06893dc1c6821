"""What may be lost: JetStream's data, NATS, the ledger's answers, instances, schedulers. Never a job."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import grpc
import pytest
from nats.js.client import JetStreamContext

from services.scheduler.subjects import STREAM
from tests.integration.scheduler.conftest import Join, RunningScheduler, StartScheduler, routing, until
from tests.integration.scheduler.nats_server import NatsServer, administer
from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh import errors
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRefusal
from workmesh.scheduler.v1.lease_service_pb2 import Offer
from workmesh.scheduler.v1.scheduler_service_pb2 import RebuildQueuesRequest

MANY = 300


async def slowly(offer: Offer) -> None:
    await asyncio.sleep(0.02)


async def everything_ends(ledger: ScriptedLedger, job_ids: list[str], seconds: float = 30.0) -> None:
    """Return when every job succeeded: once each, whatever was delivered twice."""
    async with asyncio.timeout(seconds):
        while not all(ledger.jobs[job_id].ended for job_id in job_ids):
            await ledger.grown()


async def generation(scheduler: RunningScheduler) -> str:
    return (await scheduler.stats()).generation


async def test_the_stream_deleted_under_it_is_made_anew(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    jobs = ledger.create(*(routing() for _ in range(MANY)))
    await until(lambda: scheduler.has_queued(MANY))
    before = await generation(scheduler)
    await administer(nats, lambda js: js.delete_stream(STREAM))
    await join(scheduler, work=slowly)
    jobs += ledger.create(*(routing() for _ in range(MANY)))
    await everything_ends(ledger, jobs)
    assert await generation(scheduler) != before
    await until(scheduler.is_empty)


async def test_a_directory_deleted_under_the_running_server_loses_nothing(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    delayed = ledger.create(*(routing(seconds=2.5) for _ in range(20)))
    jobs = ledger.create(*(routing() for _ in range(MANY)))
    await until(lambda: scheduler.has_queued(MANY + 20))
    before = await generation(scheduler)
    nats.wipe()
    await join(scheduler, work=slowly)
    jobs += ledger.create(*(routing() for _ in range(MANY)))
    await everything_ends(ledger, jobs + delayed)
    await until(lambda: generation_changed(scheduler, before))


async def generation_changed(scheduler: RunningScheduler, before: str) -> bool:
    return await generation(scheduler) not in ("", before)


async def test_a_directory_deleted_while_the_server_is_down_loses_nothing(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    await join(scheduler, work=slowly)
    jobs = ledger.create(*(routing() for _ in range(MANY)), *(routing(seconds=1.0) for _ in range(20)))
    await nats.kill()
    nats.wipe()
    jobs += ledger.create(*(routing() for _ in range(MANY)))
    await nats.start()
    await everything_ends(ledger, jobs)
    await until(scheduler.is_empty)


async def test_nats_killed_and_started_again_keeps_the_queues(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    await join(scheduler, work=slowly)
    jobs = ledger.create(*(routing() for _ in range(MANY)))
    before = await generation(scheduler)
    for _ in range(2):
        await nats.kill()
        jobs += ledger.create(*(routing() for _ in range(50)))
        await nats.start()
    await everything_ends(ledger, jobs)
    assert await generation(scheduler) == before


async def test_a_server_that_is_frozen_for_a_while_is_waited_for(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler(stall_seconds=1.5)
    await join(scheduler)
    before = await generation(scheduler)
    os.kill(nats.pid, signal.SIGSTOP)
    jobs = ledger.create(*(routing() for _ in range(50)))
    await until(lambda: scheduler.scheduler.publisher.failing_seconds() > 0)
    await asyncio.sleep(2.5)
    os.kill(nats.pid, signal.SIGCONT)
    await everything_ends(ledger, jobs)
    assert await generation(scheduler) == before


async def test_two_thousand_delays_survive_a_restart_of_nats(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    jobs = ledger.create(*(routing(seconds=3.0) for _ in range(2_000)))
    due = time.time() + 3.0
    await until(lambda: scheduler.has_queued(2_000))
    assert (await scheduler.stats()).delayed_count == 2_000
    await nats.kill()
    await until(lambda: not scheduler.scheduler.bus.connected)
    await nats.start()
    await scheduler.scheduler.bus.wait_connected()
    instance = await join(scheduler, slots=200)
    await until(lambda: scheduler.has_queued(2_000))
    assert time.time() < due
    assert instance.taken.offers == []
    await everything_ends(ledger, jobs)
    assert ledger.refusals == []


async def test_a_consumer_that_is_deleted_is_made_again(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    instance = await join(scheduler)
    ledger.create(routing())
    await instance.wait_finished(1)

    async def delete_consumers(js: JetStreamContext) -> None:
        for info in await js.consumers_info(STREAM):
            await js.delete_consumer(STREAM, info.name)

    await administer(nats, delete_consumers)
    ledger.create(*(routing() for _ in range(20)))
    await instance.wait_finished(21)


async def test_a_message_that_vanished_is_found_by_the_reconciler(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler(ack_wait_seconds=1.0)
    jobs = ledger.create(*(routing() for _ in range(30)), *(routing(seconds=0.5) for _ in range(10)))
    await until(lambda: scheduler.has_queued(40))
    before = await generation(scheduler)
    await administer(nats, lambda js: js.purge_stream(STREAM))
    instance = await join(scheduler)
    await everything_ends(ledger, jobs)
    assert len(instance.taken.finished) == 40
    assert await generation(scheduler) == before


async def test_a_diverged_feed_makes_the_queues_anew(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    first = await start_scheduler()
    jobs = ledger.create(*(routing() for _ in range(20)))
    await until(lambda: first.has_queued(20))
    before = await generation(first)
    await until(lambda: ledger.cursor.positions[0].height == len(ledger.blocks))
    await first.stop()
    ledger.fork()
    second = await start_scheduler("scheduler-2")
    await join(second)
    jobs += ledger.create(*(routing() for _ in range(20)))
    await everything_ends(ledger, jobs)
    assert await generation(second) != before


async def test_a_job_of_a_lost_instance_comes_again_when_its_lease_is_over(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    stuck = asyncio.Event()

    async def never(offer: Offer) -> None:
        await stuck.wait()

    doomed = await join(scheduler, name="doomed", work=never)
    jobs = ledger.create(*(routing() for _ in range(4)))
    await doomed.wait_offers(4)
    await doomed.leave(kill=True)
    killed = time.monotonic()
    heir = await join(scheduler, name="heir")
    await heir.wait_finished(4)
    # Lease 1 s and allowance 0.2 s, counted from the last heartbeat, 0.1 s ago at the most.
    assert time.monotonic() - killed >= 1.0
    assert all(len(ledger.jobs[job_id].begun) == 2 for job_id in jobs)


async def test_an_instance_that_comes_back_keeps_what_it_runs(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    first = await start_scheduler("scheduler-1")
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    instance = await join(first, slots=8, work=work)
    jobs = ledger.create(*(routing() for _ in range(4)))
    await instance.wait_offers(4)
    second = await start_scheduler("scheduler-2")
    await first.kill()
    await instance.reconnect(second.address)
    # Long enough for the messages to be delivered to the second scheduler (ack_wait 2 s).
    await until(lambda: messages_in_hand(second) == 4)
    release.set()
    await instance.wait_finished(4)
    await until(second.is_empty)
    assert [len(ledger.jobs[job_id].begun) for job_id in jobs] == [1] * 4
    assert len(instance.taken.offers) == 4


def messages_in_hand(running: RunningScheduler) -> int:
    leases = running.scheduler.inflight
    return sum(lease.message is not None for lease in leases)


async def test_a_frozen_instance_is_passed_over_and_its_late_commit_refused(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    frozen = await join(scheduler, name="frozen", slots=4, work=work)
    jobs = ledger.create(*(routing() for _ in range(2)))
    await frozen.wait_offers(2)
    frozen.mute = True
    awake = await join(scheduler, name="awake", slots=4)
    assert sorted(await awake.wait_finished(2)) == sorted(jobs)
    more = ledger.create(*(routing() for _ in range(10)))
    await awake.wait_finished(12)
    frozen.mute = False
    release.set()
    await until(lambda: not frozen.running)
    assert frozen.taken.finished == []
    assert sorted(awake.taken.finished) == sorted(jobs + more)


async def test_the_holder_changes_without_losing_or_doubling_anything(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    first = await start_scheduler("scheduler-1")
    second = await start_scheduler("scheduler-2")
    assert (first.scheduler.leader.projecting, second.scheduler.leader.projecting) == (True, False)
    instance = await join(second, slots=8, work=slowly)
    jobs = ledger.create(*(routing() for _ in range(MANY)))
    await instance.wait_finished(20)
    await first.kill()
    jobs += ledger.create(*(routing() for _ in range(MANY)))
    await everything_ends(ledger, jobs)
    assert second.scheduler.leader.projecting
    assert ledger.epoch == 2
    # What the second projected once more, the stream knew by its id.
    assert len(instance.taken.offers) == 2 * MANY
    assert await generation(second) == await generation(second)


async def test_an_orderly_stop_hands_over_at_once(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    first = await start_scheduler("scheduler-1", singleton_seconds=60.0, ack_wait_seconds=60.0)
    second = await start_scheduler("scheduler-2", ack_wait_seconds=60.0)
    # Every slot is taken, so that the first scheduler is sent messages that it cannot use.
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    busy = await join(first, name="busy", slots=1, work=work)
    jobs = ledger.create(*(routing() for _ in range(30)))
    await busy.wait_offers(1)
    await first.stop()
    instance = await join(second, name="fresh")
    assert set(await instance.wait_finished(29)) == set(jobs) - {busy.taken.offers[0].job_id}
    await until(lambda: second.scheduler.leader.projecting, 5.0)
    release.set()


async def test_a_holder_that_loses_the_lease_stops_projecting(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    first = await start_scheduler("scheduler-1")
    second = await start_scheduler("scheduler-2")
    ledger.holder, ledger.lease_until = "scheduler-2", 0
    ledger.epoch += 1
    await until(lambda: second.scheduler.leader.projecting)
    await until(lambda: not first.scheduler.leader.projecting)
    instance = await join(first)
    ledger.create(routing())
    await instance.wait_finished(1)


async def test_an_acknowledgement_that_outlives_its_stream_removes_nothing(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    instance = await join(scheduler, slots=5, work=work)
    jobs = ledger.create(*(routing() for _ in range(5)))
    await instance.wait_offers(5)
    replies = [lease.message.reply for lease in scheduler.scheduler.inflight if lease.message is not None]
    await scheduler.operations.RebuildQueues(RebuildQueuesRequest(), timeout=10)
    jobs += ledger.create(*(routing() for _ in range(20)))
    await until(lambda: scheduler.has_queued(25))
    for reply in replies:
        scheduler.scheduler.bus.owe(reply)
    assert await scheduler.scheduler.bus.answers()
    assert await scheduler.queued() == 25
    release.set()
    await everything_ends(ledger, jobs)


async def test_a_stale_acknowledgement_is_harmless_because_the_ledger_guards(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    instance = await join(scheduler)

    async def work(offer: Offer) -> None:
        # The message is gone before the attempt has ended.
        (lease,) = list(scheduler.scheduler.inflight)
        assert lease.message is not None
        scheduler.scheduler.bus.owe(lease.message.reply)
        await until(scheduler.is_empty)

    instance.work = work
    (job_id,) = ledger.create(routing())
    await instance.wait_finished(1)
    assert ledger.jobs[job_id].begun == [instance.taken.offers[0].lease_id]


async def test_a_move_is_not_swallowed_as_a_duplicate(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    await join(scheduler, name="other", agents=("other",))
    # Put aside several times within the stream's duplicate window, under one id of its first publish.
    (job_id,) = ledger.create(routing())
    await until(lambda: scheduler.scheduler.offers.holds(job_id, 1))
    await asyncio.sleep(3.5)
    assert await scheduler.queued() == 1
    instance = await join(scheduler, name="fitting")
    assert await instance.wait_finished(1) == [job_id]


async def test_a_duplicate_of_a_running_job_is_taken_out_of_the_queue(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    instance = await join(scheduler, work=work)
    (job_id,) = ledger.create(routing())
    await instance.wait_offers(1)
    (lease,) = list(scheduler.scheduler.inflight)
    assert lease.message is not None
    scheduler.scheduler.mover.schedule(lease.message.dispatch, 0)
    await until(lambda: scheduler.has_queued(2))
    await until(lambda: scheduler.has_queued(1))
    release.set()
    assert await instance.wait_finished(1) == [job_id]
    assert len(instance.taken.offers) == 1
    await until(scheduler.is_empty)


async def test_a_ledger_that_is_gone_stops_projection_and_not_the_offers(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    jobs = ledger.create(*(routing() for _ in range(MANY)))
    await until(lambda: scheduler.has_queued(MANY))
    ledger.reachable = False
    await until(lambda: not scheduler.scheduler.leader.projecting)
    await join(scheduler)
    await everything_ends(ledger, jobs)
    ledger.reachable = True
    jobs = ledger.create(*(routing() for _ in range(10)))
    await everything_ends(ledger, jobs)


async def test_rebuilding_on_request_publishes_every_live_job(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    holder = await start_scheduler("scheduler-1")
    other = await start_scheduler("scheduler-2")
    jobs = ledger.create(*(routing() for _ in range(40)), *(routing(seconds=0.5) for _ in range(10)))
    await until(lambda: holder.has_queued(50))
    before = await generation(holder)
    rebuilt = await holder.operations.RebuildQueues(RebuildQueuesRequest(), timeout=10)
    assert rebuilt.job_count == 50
    assert rebuilt.generation == await generation(holder) != before
    await until(lambda: generation_is(other, rebuilt.generation))
    await join(other)
    await everything_ends(ledger, jobs)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await other.operations.RebuildQueues(RebuildQueuesRequest(), timeout=10)
    assert errors.from_rpc_error(refused.value).reason == "WRONG_STATE"


async def generation_is(scheduler: RunningScheduler, wanted: str) -> bool:
    return await generation(scheduler) == wanted


async def test_a_running_job_is_queued_for_its_lease_end_when_the_queues_are_made_anew(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    instance = await join(scheduler, work=work)
    (job_id,) = ledger.create(routing())
    await instance.wait_offers(1)
    await scheduler.operations.RebuildQueues(RebuildQueuesRequest(), timeout=10)
    assert (await scheduler.stats()).delayed_count == 1
    # It comes back once the lease would have ended, and finds its job in hand.
    await until(lambda: messages_in_hand(scheduler) == 1)
    release.set()
    await instance.wait_finished(1)
    await until(scheduler.is_empty)
    assert AttemptRefusal.REASON_LEASE_HELD not in ledger.refusals
    assert len(ledger.jobs[job_id].begun) == 1
