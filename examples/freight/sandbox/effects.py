"""Effects and their deduplication: a key met again with the same request has no new effect."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from examples.freight.sandbox.record import Record


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that exists in a system: an order, a posting, a booking, a screening."""

    effect_id: str
    system: str
    kind: str
    reference: str
    idempotency_key: str
    request_hash: str
    body: dict[str, Any]
    response: dict[str, Any]
    status: int
    time_micros: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An effect that a request asks for; `respond` writes the answer once the effect has its id."""

    kind: str
    reference: str
    body: dict[str, Any]
    status: int
    respond: Callable[[str], dict[str, Any]]


class KeyReused(Exception):
    """The key came before with another request."""


class EffectStore:
    """Every effect of every system, kept in memory and in the record; rebuilt from the record at start."""

    def __init__(self, record: Record, earlier: Iterable[dict[str, Any]], clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock
        self._by_key: dict[tuple[str, str], Effect] = {}
        self._by_reference: dict[tuple[str, str, str], list[Effect]] = {}
        self._count = 0
        for entry in earlier:
            self._remember(Effect(**entry))

    def replay(self, system: str, key: str, request_hash: str) -> Effect | None:
        """Returns the effect that this key had; raises KeyReused where it was made by another request."""
        effect = self._by_key.get((system, key)) if key else None
        if effect is not None and effect.request_hash != request_hash:
            raise KeyReused(f"Idempotency-Key {key} was used with another request")
        return effect

    def apply(self, draft: Draft, system: str, key: str, request_hash: str) -> Effect:
        """Makes a new effect: recorded on disk first, then remembered."""
        effect_id = f"{system}-{self._count + 1:08d}"
        effect = Effect(
            effect_id=effect_id,
            system=system,
            kind=draft.kind,
            reference=draft.reference,
            idempotency_key=key,
            request_hash=request_hash,
            body=draft.body,
            response=draft.respond(effect_id),
            status=draft.status,
            time_micros=int(self._clock() * 1_000_000),
        )
        self._record.effect({name: getattr(effect, name) for name in Effect.__slots__})
        self._remember(effect)
        return effect

    def find(self, system: str, kind: str, reference: str) -> list[Effect]:
        """Returns the effects of that kind under a business reference, oldest first."""
        return self._by_reference.get((system, kind, reference), [])

    def _remember(self, effect: Effect) -> None:
        self._count += 1
        self._by_reference.setdefault((effect.system, effect.kind, effect.reference), []).append(effect)
        if effect.idempotency_key:
            self._by_key[(effect.system, effect.idempotency_key)] = effect


def hash_request(method: str, path: str, body: bytes) -> str:
    """Returns a hash of a request that does not depend on the order of keys or on white space in its JSON."""
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS) if body else b""
    return hashlib.sha256(f"{method} {path}\n".encode() + canonical).hexdigest()
