"""The HTTP driver: one pooled aiohttp session per integration, each request sent exactly once."""

from __future__ import annotations

import asyncio
import email.utils
import os
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from yarl import URL

from services.toolhub.arguments import Request
from services.toolhub.flight import Flight
from services.toolhub.integrations import Integration
from services.toolhub.outcomes import MAX_RESULT_BYTES, Answer, Lost
from workmesh.clock import Clock

_MAX_ERROR_BYTES: Final = 16 << 10
_MAX_RETRY_AFTER: Final = 86_400.0

# Below the 5 s after which common servers close an idle connection: a request sent into a closing connection
# is lost without anybody knowing whether it was read.
_KEEP_ALIVE_SECONDS: Final = 4.0
_DNS_CACHE_SECONDS: Final = 10


class _ConnectionLost(aiohttp.ClientError):
    """A connection broke; aiohttp knows no such error and so does not send the request again by itself."""


@dataclass(slots=True)
class _Passage:
    """One request on its way through aiohttp: its timer, and whether anything was sent."""

    flight: Flight
    timer: asyncio.Timeout
    per_try: float
    end: float
    held: ExitStack
    sent: bool = False

    def connection_wanted(self) -> None:
        """Waiting for a free connection costs the budget, not the try."""
        self.timer.reschedule(self.end)

    def connection_free(self) -> None:
        self.timer.reschedule(min(self.end, asyncio.get_running_loop().time() + self.per_try))

    def leaving(self) -> None:
        self.sent = True
        self.flight.request_count += 1
        self.held.enter_context(self.flight.hold())


class HttpDriver:
    """Sends requests to one integration.

    Connections are kept and shared, redirects refused, cookies ignored, proxies from the environment not
    used, and nothing is repeated here: whether a request may be sent again is decided above.
    """

    def __init__(self, integration: Integration, clock: Clock) -> None:
        self._address = integration.address
        self._clock = clock
        self._headers = {"Accept": "application/json", "User-Agent": "workmesh-toolhub"}
        if integration.secret is not None:
            self._headers[integration.secret.header] = integration.secret.reveal()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=integration.connections,
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ttl_dns_cache=_DNS_CACHE_SECONDS,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(),
            trace_configs=[_trace_config()],
            middlewares=(_send_once,),
        )

    async def send(
        self, request: Request, flight: Flight, *, per_try: float, remaining: float
    ) -> Answer | Lost:
        start = asyncio.get_running_loop().time()
        passage: _Passage | None = None
        try:
            async with asyncio.timeout_at(start + min(per_try, remaining)) as timer:
                with ExitStack() as held:
                    passage = _Passage(flight, timer, per_try, start + remaining, held)
                    return await self._exchange(request, passage)
        except TimeoutError:
            sent = passage is not None and passage.sent
            return Lost("did not answer in time" if sent else "could not be reached in time", sent, True)
        except (aiohttp.ClientError, OSError) as error:
            return Lost(_describe(error), passage is not None and passage.sent)

    async def close(self) -> None:
        await self._session.close()

    async def _exchange(self, request: Request, passage: _Passage) -> Answer:
        async with self._session.request(
            request.method,
            URL(self._address + request.target, encoded=True),
            data=request.body,
            headers=self._request_headers(request),
            allow_redirects=False,
            trace_request_ctx=passage,
        ) as response:
            good = 200 <= response.status < 300
            body, cut = await _read(response, MAX_RESULT_BYTES if good else _MAX_ERROR_BYTES)
            retry_after = read_retry_after(response.headers.get("Retry-After", ""), self._clock.time())
            return Answer(response.status, body, cut, retry_after)

    def _request_headers(self, request: Request) -> dict[str, str]:
        headers = self._headers.copy()
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.idempotency_key:
            headers["Idempotency-Key"] = request.idempotency_key
        return headers


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET, PUT or DELETE on a connection that broke."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionLost(_describe(error)) from error


def _trace_config() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_connection_queued_start.append(_on_queued)
    config.on_connection_queued_end.append(_on_dequeued)
    config.on_request_headers_sent.append(_on_leaving)
    return config


async def _on_queued(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    context.trace_request_ctx.connection_wanted()


async def _on_dequeued(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    context.trace_request_ctx.connection_free()


async def _on_leaving(session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
    # aiohttp tells so just before the first byte is written: from here on it may arrive.
    context.trace_request_ctx.leaving()


async def _read(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
    """Return the body up to a limit, and whether it goes on; the connection of a longer one is closed."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        parts.append(chunk)
        size += len(chunk)
        if size > limit:
            response.close()
            return b"".join(parts)[:limit], True
    return b"".join(parts), False


def read_retry_after(text: str, now: float) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110 §10.2.3: seconds or a date), at most a day."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        # No more digits than a float holds exactly.
        return min(_MAX_RETRY_AFTER, float(text[:15]))
    try:
        moment = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
    return min(_MAX_RETRY_AFTER, max(0.0, moment - now))


def _describe(error: BaseException) -> str:
    """Say what happened without the library's words: those hold addresses and header values."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "could not be found: its name does not resolve"
    if isinstance(error, aiohttp.ClientSSLError):
        return "could not be reached: TLS failed"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"could not be reached: {os.strerror(number) if number else 'connection failed'}"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "broke off its answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "answered what is not HTTP"
    return "closed the connection without an answer"
