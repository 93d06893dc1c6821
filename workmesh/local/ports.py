"""Free loopback ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

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
        self._candidates = self._shuffle(source or random.SystemRandom())

    def pick(self, preferred: int | None = None) -> int:
        """A free port: the preferred one if it is free.

        Raises:
            OSError: no port of the range is free.
        """
        if preferred is not None and is_free(preferred):
            return preferred
        for port in self._candidates:
            if port != preferred and is_free(port):
                return port
        raise OSError(f"no free loopback port between {FIRST} and {LAST}")

    @staticmethod
    def _shuffle(source: random.Random) -> Iterator[int]:
        return iter(source.sample(range(FIRST, LAST), LAST - FIRST))
