"""An external system of the tests' own: a real HTTP server that fails as it is told and keeps a record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Reaction = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ExternalSystem:
    """Answers each request with the next reaction of the plan; with `otherwise` when the plan is used up."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    plan: list[Reaction] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    def __post_init__(self) -> None:
        self.otherwise: Reaction = answer({"ok": True})
        self.arrived = asyncio.Condition()
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.2)

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def wait_for(self, count: int) -> None:
        """Return once so many requests have arrived."""
        async with asyncio.timeout(10), self.arrived:
            await self.arrived.wait_for(lambda: len(self.seen) >= count)

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/{tail:.*}", self._serve)
        return app

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        async with self.arrived:
            self.seen.append(Seen(request.method, request.raw_path, dict(request.headers), body))
            self.arrived.notify_all()
        reaction = self.plan.pop(0) if self.plan else self.otherwise
        try:
            return await reaction(request)
        finally:
            self.running -= 1


def answer(value: Any, status: int = 200, **headers: str) -> Reaction:
    """Answer JSON. Header names are written with underscores."""

    async def react(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): each for name, each in headers.items()}
        return web.json_response(value, status=status, headers=named)

    return react


def raw(body: bytes, status: int = 200, **headers: str) -> Reaction:
    """Answer bytes as they are."""

    async def react(_: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): each for name, each in headers.items()}
        return web.Response(body=body, status=status, headers=named)

    return react


def status(code: int, **headers: str) -> Reaction:
    """Answer a status with a short JSON body."""
    return answer({"error": f"status {code}"}, code, **headers)


def reset() -> Reaction:
    """Break the connection without an answer."""

    async def react(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return react


def broken_off() -> Reaction:
    """Begin an answer and break the connection in its middle."""

    async def react(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"half":')
        assert request.transport is not None
        request.transport.close()
        return response

    return react


def held(release: asyncio.Event, then: Reaction | None = None) -> Reaction:
    """Answer once released."""

    async def react(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await (then or answer({"ok": True}))(request)

    return react


def huge(size: int) -> Reaction:
    """Answer a JSON string of a size."""
    return raw(b'"' + b"x" * size + b'"', Content_Type="application/json")


def echo_headers(code: int = 200) -> Reaction:
    """Answer with the request's headers: what careless systems do in error pages."""

    async def react(request: web.Request) -> web.StreamResponse:
        return web.json_response({"you_sent": dict(request.headers)}, status=code)

    return react
