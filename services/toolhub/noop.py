"""Operations served inside toolhub: they cost nothing but the way there and back."""

from __future__ import annotations

import orjson

from services.toolhub.arguments import Request
from services.toolhub.flight import Flight
from services.toolhub.integrations import Operation
from services.toolhub.outcomes import Answer


def noop_result(operation: Operation) -> bytes:
    """Return the result of an operation: always the same."""
    return orjson.dumps({"ok": True, "operation": operation.name})


class NoopDriver:
    """Answers without asking anybody, for operations whose effect is claimed and settled all the same."""

    async def send(self, request: Request, flight: Flight, *, per_try: float, remaining: float) -> Answer:
        flight.request_count += 1
        return Answer(200, b'{"ok":true}')

    async def close(self) -> None:
        """Nothing is open."""
