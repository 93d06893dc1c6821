"""An instance against the real ledger: begins what it is offered, in batches, and commits it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import grpc

from workmesh import errors
from workmesh.errors import MeshError
from workmesh.ledger.v1.ledger_write_service_pb2 import (
    AttemptRef,
    BeginAttempt,
    BeginAttemptsRequest,
    CommitAttempt,
    CommitAttemptsRequest,
)
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.rpc.client import open_channel
from workmesh.scheduler.v1.lease_service_pb2 import (
    Done,
    HandlerVersion,
    Heartbeat,
    Hello,
    LeaseJobsRequest,
    LeaseJobsResponse,
    Offer,
    RunningLease,
)
from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceStub

if TYPE_CHECKING:
    from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceAsyncStub

CALL_SECONDS = 5.0
HEARTBEAT = 0.3


class Worker:
    """Stays connected until closed; each attempt takes `seconds`."""

    def __init__(
        self, name: str, ledger: str, scheduler: str, *, slots: int = 16, seconds: float = 0.01
    ) -> None:
        self.name = name
        self.slots = slots
        self.seconds = seconds
        self.committed: Counter[str] = Counter()
        self.refused: Counter[int] = Counter()
        self._channels = [open_channel(ledger), open_channel(scheduler)]
        self._ledger = LedgerWriteServiceStub(self._channels[0])
        self._scheduler = LeaseServiceStub(self._channels[1])
        self._running: dict[str, Offer] = {}
        self._said: asyncio.Queue[LeaseJobsRequest] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._spawn(self._stay_connected(self._scheduler))

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for channel in self._channels:
            await channel.close()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _leases(self) -> list[RunningLease]:
        return [
            RunningLease(lease_id=lease, job_id=offer.job_id, dispatch=offer.dispatch)
            for lease, offer in self._running.items()
        ]

    async def _stay_connected(self, stub: LeaseServiceAsyncStub) -> None:
        while True:
            self._said = asyncio.Queue()
            call = stub.LeaseJobs()
            beating = asyncio.create_task(self._speak(call))
            try:
                while isinstance(response := await call.read(), LeaseJobsResponse):
                    self._spawn(self._work(list(response.offers)))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await asyncio.sleep(0.1)
            finally:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)

    async def _speak(self, call: grpc.aio.StreamStreamCall[LeaseJobsRequest, LeaseJobsResponse]) -> None:
        hello = Hello(
            instance=self.name,
            pools=["default"],
            handlers=[HandlerVersion(agent="worker", version=1)],
            slots=self.slots,
            running=self._leases(),
        )
        await call.write(LeaseJobsRequest(hello=hello, ready=self.slots - len(self._running)))
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    request = await self._said.get()
            except TimeoutError:
                request = LeaseJobsRequest(heartbeat=Heartbeat(running=self._leases()))
            await call.write(request)

    async def _work(self, offers: list[Offer]) -> None:
        for offer in offers:
            self._running[offer.lease_id] = offer
        over: list[Done] = []
        begun: list[tuple[Offer, int]] = []
        request = BeginAttemptsRequest(
            attempts=[
                BeginAttempt(job_id=each.job_id, dispatch=each.dispatch, lease_id=each.lease_id)
                for each in offers
            ],
            instance=self.name,
        )
        try:
            answer = await self._ledger.BeginAttempts(request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError:
            over = [Done(lease_id=each.lease_id, outcome=Done.OUTCOME_UNKNOWN) for each in offers]
        else:
            for offer, result in zip(offers, answer.results, strict=True):
                if result.HasField("grant"):
                    begun.append((offer, result.grant.job.epoch))
                else:
                    self.refused[result.refusal.reason] += 1
                    done = Done(lease_id=offer.lease_id, outcome=Done.OUTCOME_REFUSED, refusal=result.refusal)
                    over.append(done)
        if begun:
            await asyncio.sleep(self.seconds)
            over += await self._commit(begun)
        for done in over:
            self._running.pop(done.lease_id, None)
        self._said.put_nowait(LeaseJobsRequest(done=over, ready=len(over)))

    async def _commit(self, begun: list[tuple[Offer, int]]) -> list[Done]:
        request = CommitAttemptsRequest(
            attempts=[
                CommitAttempt(attempt=AttemptRef(job_id=offer.job_id, epoch=epoch), output=b"{}")
                for offer, epoch in begun
            ],
            instance=self.name,
        )
        answer = None
        while answer is None:
            try:
                answer = await self._ledger.CommitAttempts(request, timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                # The ledger answers a repeat as it answered the first.
                if not _passing(errors.from_rpc_error(error)):
                    raise
                await asyncio.sleep(0.1)
        for (offer, _), result in zip(begun, answer.results, strict=True):
            if result.status.code == 0:
                self.committed[offer.job_id] += 1
        return [Done(lease_id=offer.lease_id, outcome=Done.OUTCOME_REPORTED) for offer, _ in begun]


def _passing(error: MeshError) -> bool:
    return error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
