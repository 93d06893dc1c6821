"""The contracts LeaseService and SchedulerService: validate, call, convert."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

import grpc

from services.scheduler.inflight import Inflight
from services.scheduler.instances import Drain, Instance, Instances
from services.scheduler.leader import Leader
from services.scheduler.offers import Offers
from services.scheduler.pools import Pools
from services.scheduler.stream import JobsStream, StreamFault
from services.scheduler.subjects import LANES
from services.scheduler.tasks import end
from workmesh import errors
from workmesh.clock import Clock, micros
from workmesh.errors import MeshError, Violation
from workmesh.ids import is_name
from workmesh.scheduler.v1.lease_service_pb2 import HandlerVersion, Hello, LeaseJobsRequest, LeaseJobsResponse
from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceServicer
from workmesh.scheduler.v1.scheduler_service_pb2 import (
    DrainInstanceRequest,
    DrainInstanceResponse,
    GetQueueStatsRequest,
    GetQueueStatsResponse,
    InstanceInfo,
    ListInstancesRequest,
    ListInstancesResponse,
    QueueStats,
    RebuildQueuesRequest,
    RebuildQueuesResponse,
)
from workmesh.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceServicer

LEASE_SERVICE: Final = "workmesh.scheduler.v1.LeaseService"
SCHEDULER_SERVICE: Final = "workmesh.scheduler.v1.SchedulerService"
MOST_SLOTS: Final = 4_096
MOST_NAME: Final = 256

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class LeaseService(LeaseServiceServicer):
    """One stream an instance: it tells what it has room for and what is over, and gets offers."""

    def __init__(self, offers: Offers, pools: Pools, instances: Instances, clock: Clock) -> None:
        self._offers = offers
        self._pools = pools
        self._instances = instances
        self._clock = clock
        self._draining = False

    async def LeaseJobs(
        self, request_iterator: AsyncIterator[LeaseJobsRequest], context: Context
    ) -> AsyncIterator[LeaseJobsResponse]:
        """Serve one instance until either side ends."""
        if self._draining:
            raise _draining()
        first = await anext(request_iterator, None)
        if first is None:
            return
        instance = Instance(check_hello(first), self._clock.monotonic())
        for pool in instance.pools:
            await self._pools.open(pool)
        self._offers.connected(instance)
        reader = asyncio.create_task(self._read(instance, first, request_iterator))
        try:
            async for response in instance.sender.messages():
                yield response
            if not reader.done():
                raise _draining()
            reader.result()
        finally:
            self._offers.disconnected(instance)
            await end(reader)

    def drain(self) -> None:
        """End all streams: their instances turn to another scheduler."""
        self._draining = True
        for instance in list(self._instances):
            instance.sender.close()

    async def _read(
        self, instance: Instance, first: LeaseJobsRequest, requests: AsyncIterator[LeaseJobsRequest]
    ) -> None:
        try:
            self._heard(instance, first)
            async for request in requests:
                if request.HasField("hello"):
                    raise errors.invalid_argument(
                        "an instance says hello once", Violation("hello", "is in the first request only")
                    )
                self._heard(instance, request)
        finally:
            instance.sender.close()

    def _heard(self, instance: Instance, request: LeaseJobsRequest) -> None:
        instance.heard_at = self._clock.monotonic()
        if request.HasField("hello"):
            self._offers.resumed(instance, request.hello.running)
        # In this order: a heartbeat put before an end, in one message with it, still names what has ended.
        if request.HasField("heartbeat"):
            self._offers.heartbeat(instance, request.heartbeat)
        if request.done:
            self._offers.done(request.done)
        if request.ready:
            if request.ready < 0:
                raise errors.invalid_argument("slots are counted up", Violation("ready", "is negative"))
            self._offers.ready(instance, request.ready)


class SchedulerService(SchedulerServiceServicer):
    """What operators ask."""

    def __init__(
        self,
        stream: JobsStream,
        pools: Pools,
        instances: Instances,
        inflight: Inflight,
        leader: Leader,
        clock: Clock,
    ) -> None:
        self._stream = stream
        self._pools = pools
        self._instances = instances
        self._inflight = inflight
        self._leader = leader
        self._clock = clock

    async def GetQueueStats(self, request: GetQueueStatsRequest, context: Context) -> GetQueueStatsResponse:
        if request.pool and not is_name(request.pool):
            raise errors.invalid_argument("a pool is asked for by its name", Violation("pool", "is no name"))
        try:
            count = await self._stream.count()
        except MeshError:
            raise
        except StreamFault as error:
            raise errors.unavailable(
                "DEPENDENCY_DOWN", "JetStream does not answer", retry_after=0.5
            ) from error
        queues = [
            QueueStats(
                pool=each.pool,
                lane=LANES[each.lane],
                waiting_count=each.waiting,
                delivered_count=each.delivered,
            )
            for each in sorted(count.lanes, key=lambda each: (each.pool, each.lane))
            if request.pool in ("", each.pool)
        ]
        return GetQueueStatsResponse(
            queues=queues,
            delayed_count=count.delayed,
            generation=self._pools.generation,
            projecting=self._leader.projecting,
        )

    async def ListInstances(self, request: ListInstancesRequest, context: Context) -> ListInstancesResponse:
        now, monotonic = self._clock.time(), self._clock.monotonic()
        running = self._inflight.count_by_instance()
        return ListInstancesResponse(
            instances=[
                _instance_info(each, running.get(each.name, 0), micros(now - (monotonic - each.heard_at)))
                for each in sorted(self._instances, key=lambda each: each.name)
            ]
        )

    async def DrainInstance(self, request: DrainInstanceRequest, context: Context) -> DrainInstanceResponse:
        instance = self._instances.get(request.instance)
        if instance is None:
            raise errors.not_found("instance", request.instance)
        instance.draining = True
        instance.sender.put(Drain())
        return DrainInstanceResponse()

    async def RebuildQueues(self, request: RebuildQueuesRequest, context: Context) -> RebuildQueuesResponse:
        rebuilt = await self._leader.rebuild()
        return RebuildQueuesResponse(generation=rebuilt.cursor.generation, job_count=rebuilt.jobs)


def check_hello(request: LeaseJobsRequest) -> Hello:
    """Return a stream's hello; INVALID_ARGUMENT names every field that is wrong."""
    if not request.HasField("hello"):
        raise errors.invalid_argument("the first request carries hello", Violation("hello", "is missing"))
    hello = request.hello
    wrong: list[Violation] = []
    if not hello.instance or len(hello.instance) > MOST_NAME:
        wrong.append(Violation("hello.instance", f"is empty or longer than {MOST_NAME} characters"))
    if not hello.pools:
        wrong.append(Violation("hello.pools", "is empty"))
    wrong += [
        Violation("hello.pools", f"{pool[:80]!r} is no name") for pool in hello.pools if not is_name(pool)
    ]
    if not 1 <= hello.slots <= MOST_SLOTS:
        wrong.append(Violation("hello.slots", f"is not within 1 and {MOST_SLOTS}"))
    wrong += [
        Violation("hello.handlers", f"{each.agent[:80]!r} version {each.version} is none")
        for each in hello.handlers
        if not is_name(each.agent) or each.version < 1
    ]
    if wrong:
        raise errors.invalid_argument("the hello cannot be understood", *wrong)
    return hello


def _instance_info(instance: Instance, running: int, heard_micros: int) -> InstanceInfo:
    return InstanceInfo(
        instance=instance.name,
        pools=sorted(instance.pools),
        handlers=[
            HandlerVersion(agent=agent, version=version) for agent, version in sorted(instance.handlers)
        ],
        slots=instance.slots,
        running_count=running,
        draining=instance.draining,
        address=instance.address,
        last_heartbeat_micros=heard_micros,
    )


def _draining() -> MeshError:
    return errors.unavailable(
        "DRAINING", "this scheduler goes away, or the instance connected again", retry_after=0.1
    )
