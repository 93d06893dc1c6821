"""How a system misbehaves: latency, errors, throttling, hanging. Decisions only; the server acts on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from random import Random
from typing import Any, Final

#: The 99th percentile of the standard normal distribution.
_Z99: Final = 2.3263478740408408


@dataclass(frozen=True, slots=True)
class Latency:
    """Log-normal latency given by its median and 99th percentile, in seconds, times a scale (0: none)."""

    median: float = 0.3
    p99: float = 2.0
    scale: float = 1.0

    def sample(self, random: Random) -> float:
        """Draws one latency in seconds."""
        if self.scale == 0:
            return 0.0
        sigma = math.log(self.p99 / self.median) / _Z99
        return self.median * math.exp(sigma * random.gauss(0.0, 1.0)) * self.scale


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """Faults of one system. Rates are shares of its requests, 0 to 1; times are seconds.

    Errors and hangs strike before or after the effect (`after_effect_rate` is the share after it): the caller
    cannot tell which.
    """

    error_rate: float = 0.0
    error_status: int = 503
    throttle_rate: float = 0.0
    retry_after: float = 1.0
    hang_rate: float = 0.0
    hang_seconds: float = 30.0
    after_effect_rate: float = 0.5
    slow: float = 1.0

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Misbehaviour:
        """Reads a mapping of field names to numbers; raises ValueError naming what is wrong."""
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(known))}")
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a number of at least 0")
            if name.endswith("_rate") and value > 1:
                raise ValueError(f"{name} is a share and must not exceed 1")
        if not 500 <= values.get("error_status", 503) <= 599:
            raise ValueError("error_status must be 500 to 599")
        return replace(cls(), **{**values, "error_status": int(values.get("error_status", 503))})


class Verdict(StrEnum):
    """What happens to a request."""

    ANSWER = "answer"
    THROTTLE = "throttle"
    ERROR_BEFORE = "error_before_effect"
    ERROR_AFTER = "error_after_effect"
    HANG_BEFORE = "hang_before_effect"
    HANG_AFTER = "hang_after_effect"

    @property
    def reaches_effect(self) -> bool:
        return self in (Verdict.ANSWER, Verdict.ERROR_AFTER, Verdict.HANG_AFTER)


def decide(policy: Misbehaviour, random: Random) -> Verdict:
    """Draws what happens to one request."""
    draw, after = random.random(), random.random() < policy.after_effect_rate
    if draw < policy.throttle_rate:
        return Verdict.THROTTLE
    draw -= policy.throttle_rate
    if draw < policy.hang_rate:
        return Verdict.HANG_AFTER if after else Verdict.HANG_BEFORE
    draw -= policy.hang_rate
    if draw < policy.error_rate:
        return Verdict.ERROR_AFTER if after else Verdict.ERROR_BEFORE
    return Verdict.ANSWER
