"""The stream JOBS and its consumers: made, checked, counted, thrown away."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import Final

import nats.errors
from nats.js import api
from nats.js.client import JetStreamContext
from nats.js.errors import APIError, NotFoundError, ServerError

from services.scheduler.bus import Bus
from services.scheduler.subjects import LANES, STREAM, consumer_lane, consumer_name, lane_filter
from workmesh.clock import Clock
from workmesh.errors import MeshError

_logger = logging.getLogger(__name__)

GENERATION_KEY: Final = "workmesh_generation"
CHECK_KEY: Final = "workmesh_checked"
CANARY: Final = "canary_"
DUPLICATE_WINDOW: Final = 120.0
MOST_WAITING_PULLS: Final = 2_048
_DELETE_SECONDS: Final = 30.0
_PAGE: Final = 256

StreamFault = (APIError, nats.errors.Error, MeshError, TimeoutError, OSError)
"""What JetStream's administration may fail with."""


@dataclass(frozen=True, slots=True)
class LaneCount:
    """Messages of a lane: waiting for delivery, delivered and not acknowledged; sequence delivered last."""

    pool: str
    lane: int
    waiting: int
    delivered: int
    last_sequence: int


@dataclass(frozen=True, slots=True)
class StreamCount:
    """Messages by lane, and those that wait for a time."""

    lanes: tuple[LaneCount, ...]
    delayed: int


class JobsStream:
    """JetStream's view of the queues. Every call may raise what StreamFault lists."""

    def __init__(self, bus: Bus, clock: Clock, *, ack_wait: float, replicas: int) -> None:
        self._bus = bus
        self._clock = clock
        self._ack_wait = ack_wait
        self._replicas = replicas
        self._made: set[tuple[str, str]] = set()

    async def generation(self) -> str:
        """Return the stream's generation; empty if there is no stream."""
        try:
            info = await self._bus.jetstream().stream_info(STREAM)
        except NotFoundError:
            return ""
        return _generation(info.config)

    async def create(self) -> str:
        """Throw the stream away if there is one, make it anew and return its generation."""
        jetstream = self._bus.jetstream(_DELETE_SECONDS)
        try:
            await jetstream.delete_stream(STREAM)
        except NotFoundError:
            _logger.info("there is no stream yet", extra={"action": "stream_absent"})
        generation = secrets.token_hex(6)
        await jetstream.add_stream(self._config(generation))
        await jetstream.add_consumer(STREAM, _canary(generation, self._clock.time()))
        _logger.info("the stream is made", extra={"action": "stream_created", "generation": generation})
        return generation

    async def adopt(self, generation: str) -> None:
        """Bring a stream that an earlier process made to this one's settings."""
        jetstream = self._bus.jetstream()
        await jetstream.update_stream(self._config(generation))
        await jetstream.add_consumer(STREAM, _canary(generation, self._clock.time()))

    async def ensure_pool(self, pool: str, generation: str) -> None:
        """Make the consumers of a pool's lanes, unless this process did so before."""
        if (pool, generation) in self._made:
            return
        jetstream = self._bus.jetstream()
        for lane in range(len(LANES)):
            await jetstream.add_consumer(STREAM, self._consumer(pool, lane, generation))
        self._made.add((pool, generation))

    def forget_pool(self, pool: str) -> None:
        """Have the next `ensure_pool` look again: the consumers were seen missing."""
        self._made = {each for each in self._made if each[0] != pool}

    async def check(self, generation: str) -> None:
        """Make sure that the stream is there, of the generation, and that its directory can be written.

        A stream whose directory was deleted under the server goes on answering from memory, and the directory
        comes back by halves when a consumer is made. So one consumer is there for this only: changing its
        metadata writes a file that nothing else makes. Raises StorageGone.
        """
        jetstream = self._bus.jetstream()
        try:
            config = (await jetstream.stream_info(STREAM)).config
        except NotFoundError:
            raise StorageGone("there is no stream") from None
        if _generation(config) != generation:
            raise StorageGone("the stream is another one")
        try:
            await jetstream.add_consumer(STREAM, _canary(generation, self._clock.time()))
        except ServerError as error:
            raise StorageGone(f"the stream's directory cannot be written: {error.description}") from error

    async def count(self) -> StreamCount:
        """Count the messages of all consumers."""
        jetstream = self._bus.jetstream()
        messages = (await jetstream.stream_info(STREAM)).state.messages
        lanes = []
        for info in await _all_consumers(jetstream):
            if info.name.startswith(CANARY):
                continue
            pool, lane = consumer_lane(info.name)
            last = info.delivered.stream_seq if info.delivered else 0
            lanes.append(LaneCount(pool, lane, info.num_pending or 0, info.num_ack_pending or 0, last))
        queued = sum(each.waiting + each.delivered for each in lanes)
        return StreamCount(tuple(lanes), max(0, messages - queued))

    async def oldest_waiting(self, lane: LaneCount) -> float | None:
        """Return when the oldest message of a lane that was never delivered was stored; None without one."""
        try:
            message = await self._bus.jetstream().get_msg(
                STREAM, seq=lane.last_sequence + 1, next=True, subject=lane_filter(lane.pool, lane.lane)
            )
        except NotFoundError:
            return None
        return message.time.timestamp() if message.time else None

    def _config(self, generation: str) -> api.StreamConfig:
        # No limits: with schedules the server refuses discard-new, and discard-old would evict jobs. What is
        # in the ledger bounds what is here.
        return api.StreamConfig(
            name=STREAM,
            description="index of the ledger's live jobs; made anew from it at need",
            subjects=["jobs.>", "delay.>"],
            retention=api.RetentionPolicy.WORK_QUEUE,
            storage=api.StorageType.FILE,
            num_replicas=self._replicas,
            duplicate_window=DUPLICATE_WINDOW,
            allow_msg_schedules=True,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
            metadata={GENERATION_KEY: generation},
        )

    def _consumer(self, pool: str, lane: int, generation: str) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            durable_name=consumer_name(pool, lane, generation),
            filter_subject=lane_filter(pool, lane),
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait,
            max_deliver=-1,
            max_ack_pending=-1,
            max_waiting=MOST_WAITING_PULLS,
        )


class StorageGone(Exception):
    """The stream is missing, replaced, or lost its directory: it must be made anew."""


async def _all_consumers(jetstream: JetStreamContext) -> list[api.ConsumerInfo]:
    found: list[api.ConsumerInfo] = []
    while page := await jetstream.consumers_info(STREAM, offset=len(found)):
        found += page
        if len(page) < _PAGE:
            break
    return found


def _canary(generation: str, time: float) -> api.ConsumerConfig:
    """The consumer whose file tells whether the directory is there; its subject is never published to."""
    return api.ConsumerConfig(
        durable_name=f"{CANARY}{generation}",
        filter_subject="delay.canary.>",
        ack_policy=api.AckPolicy.EXPLICIT,
        metadata={CHECK_KEY: f"{time:.3f}"},
    )


def _generation(config: api.StreamConfig) -> str:
    return (config.metadata or {}).get(GENERATION_KEY, "")
