"""What a caller may choose about a stack."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

POSTGRES_URL = "WORKMESH_LOCAL_POSTGRES_URL"
NATS_URL = "WORKMESH_LOCAL_NATS_URL"
VALKEY_URL = "WORKMESH_LOCAL_VALKEY_URL"
HANDLERS = "WORKMESH_HANDLERS"


@dataclass(frozen=True)
class StackOptions:
    """The choices of one stack; the defaults are those of `make up`."""

    agents: int = 4
    """Instances of the agent service."""
    slots: int = 16
    """Jobs one instance runs at a time."""
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Instances of other services of ours, by name; one where absent."""
    lease_seconds: float = 10.0
    ack_wait_seconds: float = 30.0
    handlers: tuple[str, ...] = field(default_factory=lambda: words(os.environ.get(HANDLERS, "")))
    """Modules the agents import their handlers from; without any no agent is started."""
    integrations: Path | None = None
    """YAML file of toolhub's integrations."""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More environment by service name; under `*` for all services of ours."""
    wipe: bool = False
    """Delete what an earlier run of the profile left, keys and data, before starting."""
    edge_port: int | None = None
    """Port of the edge: this one if it is free, else another. None: a free one."""
    access_log: bool = False
    """Let Envoy write `logs/access.log`, one JSON line a request."""
    log_level: str = "info"
    start_seconds: float = 120.0
    """How long all of it may take to become ready."""
    pin_to_parent: bool = True
    """Use the kernel's parent-death signal where there is one (Linux), else the watchdog process."""
    external: Mapping[str, str] = field(default_factory=lambda: external_urls(os.environ))
    """URLs of servers that run elsewhere, by name (postgres, nats, valkey)."""


def external_urls(environ: Mapping[str, str]) -> dict[str, str]:
    """The external servers that the environment names, by service name."""
    names = {"postgres": POSTGRES_URL, "nats": NATS_URL, "valkey": VALKEY_URL}
    return {name: environ[variable] for name, variable in names.items() if environ.get(variable)}


def words(text: str) -> tuple[str, ...]:
    """The words of a comma list."""
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)
