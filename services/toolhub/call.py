"""A tool call that may be made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from services.toolhub.catalogue import Target

_HEADER_SAFE: Final = re.compile(r"[A-Za-z0-9!#$&'()*+,./:;<=>?@\[\]^_`{|}~-]+")


@dataclass(frozen=True, slots=True)
class Call:
    """A call. `deadline`: when its caller stops waiting, seconds since the epoch."""

    target: Target
    job_id: str
    epoch: int
    series: int
    step: str
    arguments: bytes
    deadline: float | None = None
    traceparent: str = ""

    @property
    def idempotency_key(self) -> str:
        """The key by which the external system may tell a repeat: the same for each attempt of a series."""
        key = f"{self.job_id}:{self.series}:{self.step}"
        # What no header may hold is escaped, and so is the escape character: distinct steps stay distinct.
        return key if _HEADER_SAFE.fullmatch(key) else quote(key, safe="!#$&'()*+,./:;<=>?@[]^_`{|}~-")
