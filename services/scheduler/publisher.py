"""Publishing to the stream: every message is known to be stored, or is published again."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final

from services.scheduler.bus import LEAST_BACKOFF, MOST_BACKOFF, Bus
from services.scheduler.messages import Publication, parse_status
from workmesh.clock import Clock

_logger = logging.getLogger(__name__)

INBOX: Final = "pub"
NO_RESPONDERS: Final = 503
FLIGHT_ITEMS: Final = 512
FLIGHT_SECONDS: Final = 1.5


class _Flight:
    """One round of publishing: which of its messages are stored."""

    __slots__ = ("answered", "open", "refusal", "stored")

    def __init__(self, count: int) -> None:
        self.stored = bytearray(count)
        self.open = count
        self.refusal = ""
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, refusal: str) -> None:
        if refusal:
            self.refusal = refusal
        else:
            self.stored[index] = 1
        self.open -= 1
        if self.open <= 0:
            self.end()

    def end(self) -> None:
        if not self.answered.done():
            self.answered.set_result(None)


class Publisher:
    """Publishes batches, each message acknowledged by itself: an acknowledgement costs 6 µs here, and other
    publishers on the stream (fired delays among them) make counting by sequence numbers guesswork.
    """

    def __init__(self, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._flights: dict[int, _Flight] = {}
        self._last_flight = 0
        self._failing_since: float | None = None
        self.stream_missing = asyncio.Event()
        """Set when the server said that nobody takes what is published."""
        bus.on_change(self._connection_changed)

    async def start(self) -> None:
        """Listen for acknowledgements."""
        await self._bus.listen(INBOX, self._acknowledged)

    def failing_seconds(self) -> float:
        """Return for how long no publish has succeeded although there is a connection; 0 if all is well."""
        since = self._failing_since
        return 0.0 if since is None else self._clock.monotonic() - since

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Return when all are stored; refused and unanswered ones are published again until they are.

        Order is kept among messages of one round; a repeat of an unanswered one may store it twice.
        """
        for start in range(0, len(publications), FLIGHT_ITEMS):
            rest = publications[start : start + FLIGHT_ITEMS]
            backoff = LEAST_BACKOFF
            while rest := await self._fly(rest):
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(MOST_BACKOFF, backoff * 2)

    async def _fly(self, publications: Sequence[Publication]) -> Sequence[Publication]:
        """Publish once and return what is not known to be stored."""
        await self._bus.wait_connected()
        began = self._clock.monotonic()
        self._last_flight += 1
        number = self._last_flight
        flight = self._flights[number] = _Flight(len(publications))
        reply = f"{self._bus.inbox}.{INBOX}.{number:x}-"
        for index, each in enumerate(publications):
            self._bus.send(each.subject, each.payload, f"{reply}{index:x}", each.headers)
        try:
            async with asyncio.timeout(FLIGHT_SECONDS):
                await flight.answered
        except TimeoutError:
            flight.refusal = flight.refusal or "no answer"
        finally:
            del self._flights[number]
        rest = [each for each, stored in zip(publications, flight.stored, strict=True) if not stored]
        self._note(flight, began, len(publications), len(rest))
        return rest

    def _note(self, flight: _Flight, began: float, count: int, failed: int) -> None:
        if failed < count:
            self._failing_since = None
        if not failed:
            return
        if failed == count and self._failing_since is None and self._bus.connected:
            self._failing_since = began
        _logger.warning(
            "messages were not stored and are published again",
            extra={"action": "publish_failed", "messages": failed, "of": count, "cause": flight.refusal},
        )

    def _acknowledged(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        number, _, index = subject[subject.rindex(b".") + 1 :].partition(b"-")
        flight = self._flights.get(int(number, 16))
        if flight is None:
            return
        refusal = ""
        if headers and parse_status(headers) == NO_RESPONDERS:
            refusal = "no stream"
            self.stream_missing.set()
        elif b'"error"' in data:
            refusal = data.decode(errors="replace")[:300]
        flight.settle(int(index, 16), refusal)

    def _connection_changed(self, connected: bool) -> None:
        self._failing_since = None
        if not connected:
            for flight in self._flights.values():
                flight.refusal = "connection lost"
                flight.end()
