"""What every kind of integration offers to the calls above it."""

from __future__ import annotations

from typing import Protocol

from services.toolhub.arguments import Request
from services.toolhub.flight import Flight
from services.toolhub.outcomes import Answer, Lost


class Driver(Protocol):
    """The way to one external system."""

    async def send(
        self, request: Request, flight: Flight, *, per_try: float, remaining: float
    ) -> Answer | Lost:
        """Send a request once and return what came back.

        Takes at most `per_try` seconds once it has a connection, and `remaining` in all. Raises nothing but
        CancelledError: whatever goes wrong is a Lost that tells whether anything was sent. `flight` is held,
        and its request counted, from the moment that something is.
        """

    async def close(self) -> None:
        """Close the connections."""
