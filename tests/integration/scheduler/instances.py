"""Instances as the tests need them: they take offers to the scripted ledger and end attempts when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh.rpc.client import open_channel
from workmesh.scheduler.v1.lease_service_pb2 import (
    CancelNotice,
    Done,
    HandlerVersion,
    Heartbeat,
    Hello,
    LeaseJobsRequest,
    Offer,
    RunningLease,
)
from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceStub

if TYPE_CHECKING:
    from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceAsyncStub

Work = Callable[[Offer], Awaitable[None]]
HEARTBEAT = 0.1


async def at_once(offer: Offer) -> None:
    """Work that takes no time."""


@dataclass
class Taken:
    """What an instance saw, in order."""

    offers: list[Offer] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    cancels: list[CancelNotice] = field(default_factory=list)
    drained: bool = False


class TestInstance:
    """One instance and its stream. `work` runs between the grant and the commit."""

    __test__ = False

    def __init__(
        self,
        ledger: ScriptedLedger,
        *,
        name: str = "agent-1",
        slots: int = 4,
        pools: Sequence[str] = ("default",),
        agents: Sequence[str] = ("worker",),
        work: Work = at_once,
    ) -> None:
        self.ledger = ledger
        self.name = name
        self.slots = slots
        self.work = work
        self.pools = pools
        self.agents = agents
        self.taken = Taken()
        self.running: dict[str, Offer] = {}
        self.mute = False
        """While set it says and takes nothing, as when it is frozen."""
        self._requests: asyncio.Queue[LeaseJobsRequest | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: grpc.aio.Channel | None = None
        self.changed = asyncio.Condition()

    async def connect(self, address: str) -> None:
        """Say hello; its stream then runs until `leave`."""
        self._requests = asyncio.Queue()
        self._channel = open_channel(address)
        hello = Hello(
            instance=self.name,
            pools=self.pools,
            handlers=[HandlerVersion(agent=agent, version=1) for agent in self.agents],
            slots=self.slots,
            running=self._leases(),
            address="127.0.0.1:1",
        )
        free = self.slots - len(self.running)
        self._requests.put_nowait(LeaseJobsRequest(hello=hello, ready=free))
        self._listening = self._start(self._listen(LeaseServiceStub(self._channel)))
        self._beating = self._start(self._beat())

    async def reconnect(self, address: str) -> None:
        """Turn to another scheduler with everything that runs."""
        for task in (self._listening, self._beating):
            task.cancel()
        await asyncio.gather(self._listening, self._beating, return_exceptions=True)
        await self.connect(address)

    async def leave(self, *, kill: bool = False) -> None:
        """End the stream; `kill`: and with it everything that ran."""
        if kill:
            self.running.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close()

    async def wait_offers(self, count: int, seconds: float = 20.0) -> list[Offer]:
        """Return the first offers once so many came."""
        await self._wait(lambda: len(self.taken.offers) >= count, seconds)
        return self.taken.offers[:count]

    async def wait_finished(self, count: int, seconds: float = 20.0) -> list[str]:
        """Return the first jobs finished once there are so many."""
        await self._wait(lambda: len(self.taken.finished) >= count, seconds)
        return self.taken.finished[:count]

    async def wait_cancels(self, count: int, seconds: float = 20.0) -> list[CancelNotice]:
        await self._wait(lambda: len(self.taken.cancels) >= count, seconds)
        return self.taken.cancels[:count]

    async def wait_drained(self, seconds: float = 20.0) -> None:
        await self._wait(lambda: self.taken.drained, seconds)

    def say(self, request: LeaseJobsRequest) -> None:
        """Send something out of the ordinary."""
        self._requests.put_nowait(request)

    async def _wait(self, reached: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds), self.changed:
            await self.changed.wait_for(reached)

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _leases(self) -> list[RunningLease]:
        return [
            RunningLease(lease_id=lease, job_id=offer.job_id, dispatch=offer.dispatch)
            for lease, offer in self.running.items()
        ]

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            if not self.mute:
                for lease, offer in self.running.items():
                    self.ledger.renew(offer.job_id, lease)
                self.say(LeaseJobsRequest(heartbeat=Heartbeat(running=self._leases())))

    async def _listen(self, stub: LeaseServiceAsyncStub) -> None:
        async for response in stub.LeaseJobs(self._spoken()):
            if self.mute:
                continue
            self.taken.drained = self.taken.drained or response.drain
            self.taken.cancels.extend(response.cancels)
            for offer in response.offers:
                self.taken.offers.append(offer)
                self._start(self._run(offer))
            await self._tell()

    async def _spoken(self) -> AsyncIterator[LeaseJobsRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def _run(self, offer: Offer) -> None:
        refusal = self.ledger.begin(offer.job_id, offer.dispatch, offer.lease_id, self.name)
        if refusal is not None:
            self._over(Done(lease_id=offer.lease_id, outcome=Done.OUTCOME_REFUSED, refusal=refusal))
            return
        self.running[offer.lease_id] = offer
        await self.work(offer)
        self.running.pop(offer.lease_id, None)
        if self.ledger.succeed(offer.job_id, offer.lease_id):
            self.taken.finished.append(offer.job_id)
        self._over(Done(lease_id=offer.lease_id, outcome=Done.OUTCOME_REPORTED))
        await self._tell()

    def _over(self, done: Done) -> None:
        if not self.mute:
            self.say(LeaseJobsRequest(done=[done], ready=1))

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()
