"""The connection to NATS: kept up for ever, written to once a loop turn."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import nats.errors
from nats.js.client import JetStreamContext

from services.scheduler.wire import Handler, WireClient, frame
from workmesh import errors
from workmesh.ids import uuid7

_logger = logging.getLogger(__name__)

LEAST_BACKOFF: Final = 0.05
MOST_BACKOFF: Final = 0.5
NATS_FAULTS: Final = (OSError, TimeoutError, nats.errors.Error)
_CONNECT_SECONDS: Final = 2.0
_PING_SECONDS: Final = 2.0
_MOST_OWED: Final = 100_000


class Bus:
    """Connects, connects again, and keeps subscriptions over connections.

    Each connection has inboxes of its own: what an earlier one asked for does not come to the next. `send`
    is for messages that may be lost, `owe` for acknowledgements, which wait for the next connection.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._client: WireClient | None = None
        self._up = asyncio.Event()
        self._changed: list[Callable[[bool], None]] = []
        self._subjects: dict[str, Handler] = {}
        self._inboxes: dict[str, Handler] = {}
        self._numbers: dict[str, int] = {}
        self._frames: list[bytes] = []
        self._owed: deque[bytes] = deque(maxlen=_MOST_OWED)
        self._flushing = False
        self._closed = False
        self.inbox = ""

    @property
    def connected(self) -> bool:
        """Whether NATS was there at the last look."""
        return self._up.is_set()

    def on_change(self, changed: Callable[[bool], None]) -> None:
        """Have a function called with True after each connect and with False after each loss."""
        self._changed.append(changed)

    def subscribe(self, subject: str, handler: Handler) -> None:
        """Have a subject's messages handled from the next connection on; called before `run`."""
        self._subjects[subject] = handler

    async def listen(self, name: str, handler: Handler) -> None:
        """Handle messages to `<inbox>.<name>.*`, in this connection and all later ones."""
        self._inboxes[name] = handler
        if self._client is None or not self.connected:
            return
        try:
            await self._attach(self._client, name, handler)
        except NATS_FAULTS as error:
            # The connection has just broken: the next one listens from its start.
            _logger.info("an inbox waits for NATS", extra={"action": "listen_late", "error": str(error)})

    async def unlisten(self, name: str) -> None:
        """Handle what is on its way to an inbox, then no more of it."""
        self._inboxes.pop(name, None)
        number = self._numbers.pop(name, None)
        if self._client is None or not self.connected or number is None:
            return
        try:
            await self._client.detach(number)
            await self._client.flush(timeout=1)
        except NATS_FAULTS as error:
            # The server forgets the inbox with the connection.
            _logger.info("an inbox was left open", extra={"action": "unlisten_late", "error": str(error)})

    async def run(self) -> None:
        """Keep the connection until `close`."""
        backoff = LEAST_BACKOFF
        while not self._closed:
            ended = asyncio.Event()
            try:
                client = await self._connect(ended)
            except NATS_FAULTS as error:
                _logger.warning(
                    "NATS does not answer",
                    extra={"action": "nats_unreachable", "error": f"{type(error).__name__}: {error}"},
                )
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(MOST_BACKOFF, backoff * 2)
                continue
            backoff = LEAST_BACKOFF
            try:
                await ended.wait()
            finally:
                self._lost()
                await client.close()

    async def wait_connected(self) -> None:
        """Return when NATS is there."""
        await self._up.wait()

    async def answers(self, seconds: float = 1.0) -> bool:
        """Ask the server for a sign of life."""
        if self._client is None or not self.connected:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._client.flush(timeout=max(1, round(seconds) + 1))
        except NATS_FAULTS:
            return False
        return self.connected

    def jetstream(self, seconds: float = 3.0) -> JetStreamContext:
        """Return JetStream's administration; UNAVAILABLE DEPENDENCY_DOWN without a connection."""
        if self._client is None or not self.connected:
            raise errors.unavailable("DEPENDENCY_DOWN", "NATS does not answer", retry_after=MOST_BACKOFF)
        return self._client.jetstream(timeout=seconds)

    def send(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Publish; nothing is kept for later when there is no connection."""
        if self.connected:
            self._frames.append(frame(subject, payload, reply, headers))
            self._flush_soon()

    def owe(self, reply: bytes, payload: bytes = b"") -> None:
        """Answer a delivered message, as soon as there is a connection; the oldest of too many are dropped.

        One that is lost costs a second delivery.
        """
        if reply:
            self._owed.append(b"PUB %b %d\r\n%b\r\n" % (reply, len(payload), payload))
            self._flush_soon()

    async def close(self) -> None:
        """Send what is queued and disconnect."""
        self._closed = True
        self._flush()
        if self._client is not None:
            await self.answers()
            await self._client.close()

    async def _connect(self, ended: asyncio.Event) -> WireClient:
        async def closed() -> None:
            ended.set()

        client = WireClient()
        await client.connect(
            self._url,
            name=self._name,
            allow_reconnect=False,
            connect_timeout=int(_CONNECT_SECONDS),
            ping_interval=int(_PING_SECONDS),
            max_outstanding_pings=2,
            error_cb=_report,
            closed_cb=closed,
        )
        client.when_deaf(ended.set)
        try:
            await self._listen_again(client)
        except BaseException:
            await client.close()
            raise
        self._client = client
        self._frames.clear()
        self._up.set()
        self._flush_soon()
        _logger.info("connected to NATS", extra={"action": "nats_connected"})
        for changed in self._changed:
            changed(True)
        return client

    async def _listen_again(self, client: WireClient) -> None:
        self.inbox = f"_INBOX.{uuid7()}"
        for subject, handler in self._subjects.items():
            await client.attach(subject, handler)
        for name, handler in self._inboxes.items():
            await self._attach(client, name, handler)
        await client.flush(timeout=int(_CONNECT_SECONDS))

    async def _attach(self, client: WireClient, name: str, handler: Handler) -> None:
        self._numbers[name] = await client.attach(f"{self.inbox}.{name}.*", handler)

    def _lost(self) -> None:
        self._up.clear()
        self._numbers.clear()
        if not self._closed:
            _logger.warning("the connection to NATS is lost", extra={"action": "nats_lost"})
        for changed in self._changed:
            changed(False)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write everything of one loop turn at once."""
        self._flushing = False
        if self._client is None or not self.connected:
            return
        if self._frames or self._owed:
            self._client.write(b"".join((*self._owed, *self._frames)))
            self._frames.clear()
            self._owed.clear()


async def _report(error: Exception) -> None:
    _logger.warning(
        "NATS reports", extra={"action": "nats_error", "error": f"{type(error).__name__}: {error}"}
    )
