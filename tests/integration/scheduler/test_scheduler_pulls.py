"""The conversation with JetStream: pulls, statuses, publishes, broadcasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import nats as nats_client
import pytest
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext

from services.scheduler.bus import Bus
from services.scheduler.delays import delayed
from services.scheduler.messages import Message, Publication
from services.scheduler.publisher import Publisher
from services.scheduler.puller import LanePuller, Pull, PullTiming
from services.scheduler.stream import JobsStream, StorageGone
from services.scheduler.subjects import HINTS, STREAM, job_subject
from tests.integration.scheduler.conftest import Join, StartScheduler, routing, until
from tests.integration.scheduler.nats_server import NatsServer, administer
from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh.clock import SystemClock, micros
from workmesh.common.v1.job_pb2 import JOB_STATE_RUNNING, JOB_STATE_SUCCEEDED, LANE_BATCH
from workmesh.ids import uuid7
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch, JobHint, JobHints
from workmesh.scheduler.v1.lease_service_pb2 import Offer

BATCH = 2


class Line:
    """A connection, a stream of a generation, and one lane's puller."""

    def __init__(self, url: str, timing: PullTiming) -> None:
        self.clock = SystemClock()
        self.bus = Bus(url, "test")
        self.publisher = Publisher(self.bus, self.clock)
        self.stream = JobsStream(self.bus, self.clock, ack_wait=30.0, replicas=1)
        self.arrived: list[Message] = []
        self.settled = 0
        self.broken = 0
        self.puller = LanePuller(
            self.bus,
            "default",
            BATCH,
            self.clock,
            timing,
            arrived=self.arrived.append,
            settled=self._settle,
            broken=self._break,
        )
        self.generation = ""
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.publisher.start()
        await self.bus.listen(self.puller.name, self.puller.handle)
        self._task = asyncio.create_task(self.bus.run())
        await self.bus.wait_connected()
        await self.renew()

    async def renew(self) -> None:
        self.generation = await self.stream.create()
        await self.stream.ensure_pool("default", self.generation)
        self.puller.use(self.generation)

    async def publish(self, count: int) -> None:
        subject = job_subject("default", LANE_BATCH)
        await self.publisher.publish(
            [Publication(subject, Dispatch(job_id=uuid7()).SerializeToString()) for _ in range(count)]
        )

    async def close(self) -> None:
        await self.bus.close()
        if self._task is not None:
            await self._task

    def _settle(self) -> None:
        self.settled += 1

    def _break(self) -> None:
        self.broken += 1


@pytest.fixture
async def line(nats: NatsServer) -> AsyncIterator[Line]:
    made = Line(nats.url, PullTiming(wait=0.6, heartbeat=0.2, probe=0.5))
    await made.open()
    yield made
    await made.close()


async def test_a_probe_brings_what_is_there_and_says_when_that_is_all(line: Line) -> None:
    await line.publish(3)
    line.puller.probe(5)
    await until(lambda: line.puller.pull is Pull.NONE)
    assert len(line.arrived) == 3
    assert line.puller.empty
    assert line.puller.credit == 0


async def test_a_probe_that_gets_all_it_asked_for_does_not_call_the_lane_empty(line: Line) -> None:
    await line.publish(9)
    line.puller.probe(5)
    await until(lambda: line.puller.pull is Pull.NONE)
    assert len(line.arrived) == 5
    assert not line.puller.empty


async def test_a_wait_brings_what_comes_later_by_itself(line: Line) -> None:
    line.puller.wait(4)
    await line.publish(1)
    await until(lambda: len(line.arrived) == 1)
    assert (line.puller.pull, line.puller.credit) == (Pull.WAIT, 3)


async def test_a_wait_that_ends_is_counted_off_exactly_and_its_heartbeats_keep_it_alive(line: Line) -> None:
    line.puller.wait(4)
    line.puller.wait(2)
    await line.publish(1)
    await until(lambda: line.puller.pull is Pull.NONE)
    assert line.puller.empty
    assert line.puller.credit == 0
    assert line.broken == 0
    line.puller.wait(1)
    await line.publish(1)
    await until(lambda: len(line.arrived) == 2)


async def test_a_pull_of_which_nothing_is_heard_is_given_up(line: Line) -> None:
    line.puller.wait(4)
    now = line.clock.monotonic()
    line.puller.check(now + 0.4)
    assert line.settled == 0
    line.puller.check(now + 0.6)
    assert line.settled == 1
    assert line.puller.pull is Pull.NONE
    # Its messages still count when they come after all.
    await line.publish(1)
    await until(lambda: len(line.arrived) == 1)


async def test_a_pull_from_a_consumer_that_is_not_there_says_so(line: Line) -> None:
    line.puller.wait(1)
    # Outstanding, and not on its way: the server answers no pull that meets the deletion.
    await until(lambda: _outstanding(line))
    await line.bus.jetstream().delete_stream(STREAM)
    await until(lambda: line.broken == 1)
    assert not line.puller.usable
    await line.renew()
    line.puller.wait(1)
    await line.publish(1)
    await until(lambda: len(line.arrived) == 1)


async def _outstanding(line: Line) -> bool:
    infos = await line.bus.jetstream().consumers_info(STREAM)
    return any(info.num_waiting for info in infos)


async def test_a_refused_message_is_published_until_it_is_stored(line: Line) -> None:
    await line.bus.jetstream().delete_stream(STREAM)
    publishing = asyncio.create_task(line.publish(700))
    await line.publisher.stream_missing.wait()
    await until(lambda: line.publisher.failing_seconds() > 0.1)
    await line.renew()
    await publishing
    assert line.publisher.failing_seconds() == 0.0
    assert (await line.stream.count()).lanes[0].waiting == 700


async def test_of_two_messages_with_one_id_the_stream_takes_the_first(line: Line) -> None:
    dispatch = Dispatch(job_id=uuid7(), dispatch=1, pool="default", lane=LANE_BATCH)
    first = Publication(job_subject("default", LANE_BATCH), b"", b"Nats-Msg-Id: g:j:1\r\n")
    await line.publisher.publish([first, first])
    await line.publisher.publish([first])
    assert (await line.stream.count()).lanes[0].waiting == 1
    # Which is why a move carries none.
    later = micros(line.clock.time() + 60)
    await line.publisher.publish([delayed(dispatch, b"", later, message_id="g:j:1")])
    assert (await line.stream.count()).delayed == 0
    await line.publisher.publish([delayed(dispatch, b"", later)])
    assert (await line.stream.count()).delayed == 1


async def test_a_second_delay_of_a_dispatch_replaces_the_first(line: Line) -> None:
    dispatch = Dispatch(job_id=uuid7(), dispatch=1, pool="default", lane=LANE_BATCH)
    payload, now = dispatch.SerializeToString(), line.clock.time()
    await line.publisher.publish([delayed(dispatch, payload, micros(now + 60))])
    await line.publisher.publish([delayed(dispatch, payload, micros(now + 0.3), moves=2)])
    assert (await line.stream.count()).delayed == 1
    line.puller.wait(4)
    await until(lambda: len(line.arrived) == 1)
    assert line.clock.time() >= now + 0.3
    assert line.arrived[0].moves == 2
    assert (await line.stream.count()).delayed == 0


async def test_a_stream_of_another_generation_is_told_apart(line: Line) -> None:
    before = line.generation
    await line.stream.check(before)
    await line.renew()
    with pytest.raises(StorageGone, match="another"):
        await line.stream.check(before)
    await line.bus.jetstream().delete_stream(STREAM)
    with pytest.raises(StorageGone, match="no stream"):
        await line.stream.check(line.generation)


async def test_a_deleted_directory_is_noticed_though_everything_seems_to_work(
    nats: NatsServer, line: Line
) -> None:
    nats.wipe()
    await line.publish(5)
    # Making a consumer brings half of the directory back.
    await line.stream.ensure_pool("another", line.generation)
    line.puller.probe(5)
    await until(lambda: len(line.arrived) == 5)
    with pytest.raises(StorageGone, match="cannot be written"):
        await line.stream.check(line.generation)


async def test_publishes_that_fail_while_nats_answers_make_the_queues_anew(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    await join(scheduler)

    async def close_the_door(js: JetStreamContext) -> None:
        config = (await js.stream_info(STREAM)).config
        config.subjects = ["delay.>"]
        for info in await js.consumers_info(STREAM):
            if info.config.filter_subject != "delay.canary.>":
                await js.delete_consumer(STREAM, info.name)
        await js.update_stream(config)

    before = (await scheduler.stats()).generation
    await administer(nats, close_the_door)
    jobs = ledger.create(*(routing() for _ in range(20)))
    await until(lambda: all(ledger.jobs[job_id].ended for job_id in jobs))
    assert (await scheduler.stats()).generation != before


async def test_watchers_are_told_of_each_change(
    nats: NatsServer, ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    told: list[JobHint] = []

    async def listen(message: Msg) -> None:
        told.extend(JobHints.FromString(message.data).hints)

    client = await nats_client.connect(nats.url)
    await client.subscribe(HINTS, cb=listen)
    await client.flush()
    scheduler = await start_scheduler()
    await until(lambda: ledger.cursor.epoch == 1)
    release = asyncio.Event()

    async def work(offer: Offer) -> None:
        await release.wait()

    (job_id,) = ledger.create(routing())
    await join(scheduler, work=work)
    await until(lambda: len(told) == 1)
    release.set()
    await until(lambda: len(told) == 2)
    assert [(hint.job_id, hint.seq, hint.state) for hint in told] == [
        (job_id, 2, JOB_STATE_RUNNING),
        (job_id, 3, JOB_STATE_SUCCEEDED),
    ]
    await client.close()
