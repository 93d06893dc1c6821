"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from workmesh.local.home import FileLock

# Below every system's ephemeral range (Linux 32768, macOS 49152), so that no outgoing connection
# takes a port between its choice and the moment its service, or that service's restart, binds it.
FIRST, LAST = 18_000, 32_000


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


class PortPicker:
    """Hands out each free port at most once."""

    def __init__(self, source: random.Random | None = None) -> None:
        # Ports are no secret: an ordinary generator will do.
        drawn = (source or random.Random()).sample(range(FIRST, LAST), LAST - FIRST)
        self._candidates = iter(drawn)
        self._reservation: FileLock | None = None

    def pick(self) -> int:
        """A free port.

        Raises:
            OSError: no port of the range is free.
        """
        for port in self._candidates:
            if is_free(port):
                return port
        raise OSError(f"no free loopback port between {FIRST} and {LAST}")

    def prefer(self, port: int | None, reservations: Path) -> int:
        """The port if it is free and no other stack of this user is about to take it, else another one."""
        if port is not None and is_free(port):
            reservation = FileLock(reservations / f"port-{port}.lock")
            if reservation.try_acquire():
                self._reservation = reservation
                return port
        return self.pick()

    def close(self) -> None:
        """Give up the reservation."""
        if self._reservation is not None:
            self._reservation.release()
