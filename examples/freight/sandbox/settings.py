"""Start options of the sandbox."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from examples.freight.sandbox.misbehaviour import Misbehaviour


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """What the sandbox is started with. Latencies in seconds; `scale` multiplies them, 0 means none."""

    record: Path
    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    latency_median: float = 0.3
    latency_p99: float = 2.0
    latency_scale: float = 1.0
    misbehaviour: dict[str, Misbehaviour] = field(default_factory=dict)
    until_stdin_ends: bool = False
    """Stop when standard input ends: when the process that started it is gone, however it went."""
