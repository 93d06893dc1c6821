"""The stream to a scheduler: signs of life and ended offers out, offers and cancellations in."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import grpc

from services.agent.backoff import pause
from services.agent.metrics import STREAMS_LOST
from workmesh.clock import Clock
from workmesh.errors import MeshError, from_rpc_error, unavailable
from workmesh.rpc.streams import StreamSender
from workmesh.scheduler.v1.lease_service_pb2 import (
    Done,
    Heartbeat,
    Hello,
    LeaseJobsRequest,
    LeaseJobsResponse,
)

if TYPE_CHECKING:
    from workmesh.scheduler.v1.lease_service_pb2_grpc import LeaseServiceAsyncStub

_logger = logging.getLogger(__name__)

_STEADY_SECONDS: Final = 5.0
_MOST_KEPT: Final = 4_096
_CLOSE_SECONDS: Final = 1.0


class Ended(NamedTuple):
    """An offer that is over, and how many slots that freed; without `done` slots alone."""

    done: Done | None
    freed: int


Notice = Ended | Heartbeat


class Peer(Protocol):
    """The instance, as its stream sees it."""

    def hello(self) -> Hello:
        """Introduce the instance, with the leases it holds."""
        ...

    def free_slots(self) -> int:
        """Return how many offers it can take."""
        ...

    def heartbeat(self) -> Heartbeat:
        """Name the leases it holds."""
        ...

    def receive(self, response: LeaseJobsResponse) -> None:
        """Take offers, cancellations and drain requests, without waiting."""
        ...


class SchedulerLink:
    """Keeps one LeaseJobs stream open, to whichever scheduler answers."""

    def __init__(self, stub: LeaseServiceAsyncStub, clock: Clock, heartbeat_seconds: float) -> None:
        self._stub = stub
        self._clock = clock
        self._heartbeat_seconds = heartbeat_seconds
        self._sender: StreamSender[Notice, LeaseJobsRequest] | None = None
        # Ends that no scheduler heard: told to the next one, else it waits for its own time-out.
        self._untold: deque[Done] = deque(maxlen=_MOST_KEPT)
        self._closing = asyncio.Event()
        self._idle = asyncio.Event()

    def ended(self, done: Done | None, freed: int) -> None:
        """Tell that an offer is over and slots are free."""
        if not self._put(Ended(done, freed)) and done is not None:
            self._untold.append(done)

    def beat(self, heartbeat: Heartbeat) -> None:
        """Give a sign of life out of turn."""
        self._put(heartbeat)

    async def run(self, peer: Peer) -> None:
        """Stay connected until closed or cancelled."""
        tries = 0
        while not self._closing.is_set():
            start = self._clock.monotonic()
            ended = await self._serve(peer)
            if self._closing.is_set():
                return
            tries = 0 if self._clock.monotonic() - start > _STEADY_SECONDS else tries + 1
            STREAMS_LOST.labels("scheduler").inc()
            _logger.log(
                logging.INFO if tries <= 1 else logging.DEBUG,
                "the stream to the scheduler ended: %s",
                ended,
                extra={"action": "lease_stream_lost", "tries": tries},
            )
            await asyncio.sleep(pause(tries, random.random(), ended.retry_after))

    async def close(self) -> None:
        """Send what is queued and end the stream, within a second."""
        self._closing.set()
        if self._sender is not None:
            self._sender.close()
            await asyncio.wait((asyncio.create_task(self._idle.wait()),), timeout=_CLOSE_SECONDS)

    def _put(self, notice: Notice) -> bool:
        if self._sender is None:
            return False
        try:
            self._sender.put(notice)
        except MeshError:
            # The stream has just broken, or is being closed.
            return False
        return True

    async def _serve(self, peer: Peer) -> MeshError:
        """Serve one stream and return why it ended."""
        call = self._stub.LeaseJobs()
        sender: StreamSender[Notice, LeaseJobsRequest] = StreamSender(_combine, name="lease stream")
        hello = LeaseJobsRequest(hello=peer.hello(), ready=peer.free_slots())
        # From here on what ends is queued behind the hello that still counts it as running.
        self._sender = sender
        self._idle.clear()
        while self._untold:
            sender.put(Ended(self._untold.popleft(), 0))
        tasks: list[asyncio.Task[None]] = []
        try:
            await call.write(hello)
            tasks.append(asyncio.create_task(_write(sender, call)))
            tasks.append(asyncio.create_task(self._beat_forever(peer)))
            while isinstance(response := await call.read(), LeaseJobsResponse):
                peer.receive(response)
            return unavailable("DRAINING", "the scheduler ended the stream")
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        except asyncio.InvalidStateError as error:
            return unavailable("DEPENDENCY_DOWN", f"the stream broke at once: {error}")
        finally:
            self._sender = None
            for task in tasks:
                task.cancel()
            call.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._idle.set()

    async def _beat_forever(self, peer: Peer) -> None:
        while True:
            self.beat(peer.heartbeat())
            await asyncio.sleep(self._heartbeat_seconds)


async def _write(
    sender: StreamSender[Notice, LeaseJobsRequest],
    call: grpc.aio.StreamStreamCall[LeaseJobsRequest, LeaseJobsResponse],
) -> None:
    await sender.run(call.write)
    await call.done_writing()


def _combine(notices: list[Notice]) -> LeaseJobsRequest:
    """Make one request of what was put in one loop turn; of several heartbeats the last counts."""
    request = LeaseJobsRequest()
    for notice in notices:
        if isinstance(notice, Heartbeat):
            request.heartbeat.CopyFrom(notice)
        else:
            request.ready += notice.freed
            if notice.done is not None:
                request.done.append(notice.done)
    return request
