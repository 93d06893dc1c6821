"""Identifiers: UUIDv7 (RFC 9562) for what the mesh makes, names for what people make."""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Final

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9-]{0,62}"
"""Clients, agents, pools and integrations; a name is also one token of a NATS subject."""

_NAME = re.compile(NAME_PATTERN)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

_COUNTER_BITS = 74
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1
_LOW_62 = (1 << 62) - 1


class _Uuid7Source:
    """RFC 9562 §6.2 method 2: 74 random bits, raised by a random step within one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millis = 0
        self._counter = 0
        self._pool = b""
        self._offset = 0

    def _random(self, size: int) -> int:
        if self._offset + size > len(self._pool):
            self._pool = os.urandom(4096)
            self._offset = 0
        start = self._offset
        self._offset = start + size
        return int.from_bytes(self._pool[start : self._offset], "big")

    def next(self) -> str:
        with self._lock:
            millis = time.time_ns() // 1_000_000
            if millis > self._millis:
                self._millis = millis
                # The top bit stays free, so that the steps of one millisecond have room to climb.
                self._counter = self._random(10) & (_COUNTER_MASK >> 1)
            else:
                self._counter += 1 + self._random(4)
                if self._counter > _COUNTER_MASK:
                    self._millis += 1
                    self._counter &= _COUNTER_MASK
            high = self._counter >> 62
            number = (
                (self._millis << 80) | (0x7 << 76) | (high << 64) | (0x2 << 62) | (self._counter & _LOW_62)
            )
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_source = _Uuid7Source()


def _renew_source() -> None:
    global _source
    _source = _Uuid7Source()


# A forked child would otherwise go on with its parent's random bytes and mint the same ids.
os.register_at_fork(after_in_child=_renew_source)


def uuid7() -> str:
    """Return a new UUIDv7, lowercase with dashes, greater than every earlier one of this process."""
    return _source.next()


def is_uuid(text: str) -> bool:
    """Tell whether the text is a UUID in canonical form: lowercase hexadecimal with dashes."""
    return _UUID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Tell whether the text may name a client, agent, pool or integration."""
    return _NAME.fullmatch(text) is not None
