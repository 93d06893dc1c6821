"""Pulling one lane's messages from its consumer (NATS ADR-13): at most one kind of pull is outstanding.

A *probe* asks for what is there now and is answered 404 when that is less than asked for: afterwards the lane
is known to be empty. Then a *wait* is left with the server, so that the next message comes by itself: a lane
with a wait outstanding needs no probe. So lanes can be served in strict order without holding messages back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from services.scheduler.bus import Bus
from services.scheduler.figures import REDELIVERIES
from services.scheduler.messages import Message, parse_delivery, parse_moves, parse_pending, parse_status
from services.scheduler.subjects import LANE_NAMES, STREAM, consumer_name
from workmesh.clock import Clock
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

_logger = logging.getLogger(__name__)

IDLE_HEARTBEAT: Final = 100
NO_MESSAGES: Final = 404
PULL_ENDED: Final = 408


@dataclass(frozen=True, slots=True)
class PullTiming:
    """Seconds: how long a wait stays, how often the server says that it still does, and when a probe is lost.

    The heartbeat is at most half of the wait: otherwise the server refuses the pull and says so only once.
    """

    wait: float = 30.0
    heartbeat: float = 5.0
    probe: float = 2.0

    def __post_init__(self) -> None:
        if self.heartbeat > self.wait / 2:
            raise ValueError("the heartbeat of a pull is at most half of its wait")


class Pull(Enum):
    """What is outstanding at the server."""

    NONE = 0
    PROBE = 1
    WAIT = 2


class LanePuller:
    """The pulls of one pool's lane.

    `arrived` takes each message, `settled` is called when a probe was answered or a pull ended, `broken` when
    the consumer is not there.
    """

    def __init__(
        self,
        bus: Bus,
        pool: str,
        lane: int,
        clock: Clock,
        timing: PullTiming,
        *,
        arrived: Callable[[Message], None],
        settled: Callable[[], None],
        broken: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._timing = timing
        self._arrived = arrived
        self._settled = settled
        self._broken = broken
        self.pool = pool
        self.lane = lane
        self.name = f"lane-{pool}-{LANE_NAMES[lane]}"
        self.pull = Pull.NONE
        self.credit = 0
        """Messages that may still come on the outstanding pull."""
        self.empty = False
        """Whether the last pull ended because there was nothing: true until the owner acts on it."""
        self._subject = ""
        self._number = 0
        self._heard_at = 0.0

    @property
    def usable(self) -> bool:
        """Whether there is a consumer to pull from."""
        return bool(self._subject)

    def use(self, generation: str) -> None:
        """Pull from the consumer of a generation of the stream; empty: from none."""
        self.reset()
        self._subject = ""
        if generation:
            consumer = consumer_name(self.pool, self.lane, generation)
            self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"

    def reset(self) -> None:
        """Count no longer on what was asked for; a late answer is handled all the same."""
        self.pull = Pull.NONE
        self.credit = 0
        self._number += 1

    def probe(self, credit: int) -> None:
        """Ask for what is there, at most `credit` messages."""
        self._ask(Pull.PROBE, credit, b'{"batch":%d,"no_wait":true}' % credit)

    def wait(self, credit: int) -> None:
        """Leave word for the next `credit` messages, beside what is left of an earlier wait."""
        timing = self._timing
        expires, heartbeat = round(timing.wait * 1e9), round(timing.heartbeat * 1e9)
        body = b'{"batch":%d,"expires":%d,"idle_heartbeat":%d}' % (credit, expires, heartbeat)
        self._ask(Pull.WAIT, credit, body)

    def check(self, now: float) -> None:
        """Give a pull up that the server has said nothing about for too long."""
        patience = self._timing.probe if self.pull is Pull.PROBE else self._timing.heartbeat * 2.5
        if self.pull is not Pull.NONE and now - self._heard_at > patience:
            _logger.warning("a pull went unanswered", extra={"action": "pull_lost", "lane": self.name})
            self.reset()
            self._settled()

    def handle(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        """Take what the server sends to the lane's inbox."""
        self._heard_at = self._clock.monotonic()
        if reply.startswith(b"$JS.ACK."):
            self._take(reply, data, headers)
            return
        status = parse_status(headers or b"")
        if status != IDLE_HEARTBEAT and int(subject[subject.rindex(b".") + 1 :]) == self._number:
            self._ended(status, headers or b"")

    def _ask(self, pull: Pull, credit: int, body: bytes) -> None:
        self.pull = pull
        self.empty = False
        self.credit += credit
        self._heard_at = self._clock.monotonic()
        self._bus.send(self._subject, body, f"{self._bus.inbox}.{self.name}.{self._number}")

    def _take(self, reply: bytes, data: bytes, headers: bytes | None) -> None:
        sequence, again = parse_delivery(reply)
        if again:
            REDELIVERIES.labels(self.pool, LANE_NAMES[self.lane]).inc()
        moves = parse_moves(headers) if headers else 0
        message = Message(Dispatch.FromString(data), self.lane, reply, sequence, moves)
        if self.credit > 0:
            self.credit -= 1
        answered = self.credit == 0 and self.pull is not Pull.NONE
        if answered:
            self.pull = Pull.NONE
        self._arrived(message)
        if answered:
            self._settled()

    def _ended(self, status: int, headers: bytes) -> None:
        """The server will send no more on a pull: its time is over, or there was nothing (more) there."""
        if status == NO_MESSAGES or (status == PULL_ENDED and self.pull is Pull.PROBE):
            self.reset()
            self.empty = True
        elif status == PULL_ENDED:
            self.credit -= parse_pending(headers)
            if self.credit <= 0:
                self.reset()
                self.empty = True
        else:
            _logger.warning(
                "a pull was refused",
                extra={
                    "action": "pull_refused",
                    "lane": self.name,
                    "answer": headers[9:120].decode(errors="replace"),
                },
            )
            self.use("")
            self._broken()
        self._settled()
