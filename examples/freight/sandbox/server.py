"""The sandbox over HTTP: each request meets latency and misbehaviour, then its system, then the record."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final

import orjson
from aiohttp import web

from examples.freight.sandbox.effects import EffectStore, KeyReused, hash_request
from examples.freight.sandbox.misbehaviour import Latency, Misbehaviour, Verdict, decide
from examples.freight.sandbox.record import EFFECTS, REQUESTS, Record, read_lines
from examples.freight.sandbox.settings import SandboxSettings
from examples.freight.sandbox.systems import Operation, Read, Refused, System, Write, all_systems

MAX_BODY_BYTES: Final = 1 << 20
_HEADER: Final = "Idempotency-Key"


@dataclass(slots=True)
class Outcome:
    """What one request came to: the answer, and what the record says of it."""

    status: int
    body: dict[str, Any]
    effect_id: str = ""
    replayed: bool = False


class Sandbox:
    """All systems behind one HTTP application. `close` after the application has stopped."""

    def __init__(self, settings: SandboxSettings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        earlier = read_lines(settings.record / EFFECTS)
        self._sequence = len(read_lines(settings.record / REQUESTS))
        self._record = Record(settings.record)
        self._store = EffectStore(self._record, earlier, clock)
        self._systems = {system.name: system for system in all_systems(self._store, settings.seed)}
        self._random = {name: Random(f"{settings.seed}/{name}") for name in self._systems}
        self._latency = Latency(settings.latency_median, settings.latency_p99, settings.latency_scale)
        self._misbehaviour = {name: settings.misbehaviour.get(name, Misbehaviour()) for name in self._systems}
        self._counts: Counter[str] = Counter()

    def application(self) -> web.Application:
        """Builds the HTTP application: `/<system>/…` and `/admin/…`."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for system in self._systems.values():
            for operation in system.operations:
                method = "GET" if isinstance(operation, Read) else "POST"
                app.router.add_route(
                    method, f"/{system.name}{operation.path}", self._handler(system, operation)
                )
        app.router.add_get("/admin/health", self._health)
        app.router.add_get("/admin/systems", self._list_systems)
        app.router.add_put("/admin/systems/{system}/misbehaviour", self._set_misbehaviour)
        app.router.add_delete("/admin/systems/{system}/misbehaviour", self._reset_misbehaviour)
        app.router.add_put("/admin/latency", self._set_latency)
        return app

    def close(self) -> None:
        self._record.close()

    def _handler(
        self, system: System, operation: Operation
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(system.name, operation, request)

        return handle

    async def _serve(self, system: str, operation: Operation, request: web.Request) -> web.StreamResponse:
        started = self._clock()
        body = await request.read()
        policy = self._misbehaviour[system]
        verdict = decide(policy, self._random[system])
        if verdict is not Verdict.THROTTLE:
            await asyncio.sleep(self._latency.sample(self._random[system]) * policy.slow)
        outcome = (
            self._carry_out(system, operation, request, body) if verdict.reaches_effect else Outcome(0, {})
        )
        status, headers, answer = _answer(verdict, policy, outcome)
        self._write_down(system, request, body, verdict, status, outcome, started)
        if verdict in (Verdict.HANG_BEFORE, Verdict.HANG_AFTER):
            await asyncio.sleep(policy.hang_seconds)
        return web.Response(
            status=status, headers=headers, body=orjson.dumps(answer), content_type="application/json"
        )

    def _carry_out(self, system: str, operation: Operation, request: web.Request, body: bytes) -> Outcome:
        try:
            if isinstance(operation, Read):
                return Outcome(200, operation.answer({**request.query, **request.match_info}))
            return self._write(system, operation, request, body)
        except Refused as refusal:
            return _problem(refusal.status, refusal.reason, str(refusal))
        except KeyReused as reuse:
            return _problem(422, "IDEMPOTENCY_KEY_REUSED", str(reuse))
        except orjson.JSONDecodeError as error:
            return _problem(400, "INVALID_JSON", str(error))

    def _write(self, system: str, operation: Write, request: web.Request, body: bytes) -> Outcome:
        # Nothing is awaited in here: two requests with one key cannot both find it unused.
        key = request.headers.get(_HEADER, "")
        request_hash = hash_request("POST", request.path, body)
        earlier = self._store.replay(system, key, request_hash)
        if earlier is not None:
            return Outcome(earlier.status, earlier.response, earlier.effect_id, replayed=True)
        fields = orjson.loads(body) if body else None
        if not isinstance(fields, dict):
            raise Refused(400, "INVALID_JSON", "the body must be a JSON object")
        effect = self._store.apply(operation.draft(fields), system, key, request_hash)
        return Outcome(effect.status, effect.response, effect.effect_id)

    def _write_down(
        self,
        system: str,
        request: web.Request,
        body: bytes,
        verdict: Verdict,
        status: int,
        outcome: Outcome,
        started: float,
    ) -> None:
        self._sequence += 1
        self._counts[f"{system}.{verdict}"] += 1
        now = self._clock()
        self._record.request(
            {
                "sequence": self._sequence,
                "time_micros": int(now * 1_000_000),
                "duration_ms": round((now - started) * 1_000, 1),
                "system": system,
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "idempotency_key": request.headers.get(_HEADER, ""),
                "body_bytes": len(body),
                "verdict": verdict,
                "status": status,
                "effect_id": outcome.effect_id,
                "replayed": outcome.replayed,
            }
        )

    async def _health(self, _: web.Request) -> web.Response:
        return _json(200, {"status": "SERVING", "requests": self._sequence})

    async def _list_systems(self, _: web.Request) -> web.Response:
        systems = {
            name: {
                "misbehaviour": asdict(self._misbehaviour[name]),
                "requests": {verdict.value: self._counts[f"{name}.{verdict}"] for verdict in Verdict},
            }
            for name in self._systems
        }
        return _json(200, {"latency": asdict(self._latency), "systems": systems})

    async def _set_misbehaviour(self, request: web.Request) -> web.Response:
        name = request.match_info["system"]
        if name not in self._systems:
            return _json(404, {"reason": "NOT_FOUND", "message": f"no system {name}"})
        try:
            self._misbehaviour[name] = Misbehaviour.parse(await _object(request))
        except ValueError as error:
            return _json(400, {"reason": "INVALID_MISBEHAVIOUR", "message": str(error)})
        return _json(200, asdict(self._misbehaviour[name]))

    async def _reset_misbehaviour(self, request: web.Request) -> web.Response:
        name = request.match_info["system"]
        if name not in self._systems:
            return _json(404, {"reason": "NOT_FOUND", "message": f"no system {name}"})
        self._misbehaviour[name] = Misbehaviour()
        return _json(200, asdict(self._misbehaviour[name]))

    async def _set_latency(self, request: web.Request) -> web.Response:
        try:
            scale = (await _object(request)).get("scale")
            if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale <= 1_000:
                raise ValueError("scale must be a number from 0 to 1000")
        except ValueError as error:
            return _json(400, {"reason": "INVALID_LATENCY", "message": str(error)})
        self._latency = replace(self._latency, scale=float(scale))
        return _json(200, asdict(self._latency))


def _answer(
    verdict: Verdict, policy: Misbehaviour, outcome: Outcome
) -> tuple[int, dict[str, str], dict[str, Any]]:
    if verdict is Verdict.ANSWER:
        return outcome.status, {}, outcome.body
    if verdict is Verdict.THROTTLE:
        body = {"reason": "THROTTLED", "message": "too many requests"}
        return 429, {"Retry-After": f"{policy.retry_after:g}"}, body
    if verdict in (Verdict.ERROR_BEFORE, Verdict.ERROR_AFTER):
        return policy.error_status, {}, {"reason": "FAILURE", "message": "the system failed"}
    return 504, {}, {"reason": "HANGING", "message": "no answer in time"}


def _problem(status: int, reason: str, message: str) -> Outcome:
    return Outcome(status, {"reason": reason, "message": message})


def _json(status: int, body: dict[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


async def _object(request: web.Request) -> dict[str, Any]:
    fields = orjson.loads(await request.read())
    if not isinstance(fields, dict):
        raise ValueError("the body must be a JSON object")
    return fields
