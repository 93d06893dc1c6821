"""Settings of the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workmesh.config import REQUIRED, setting


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """What a ledger process is told by its environment."""

    database_url: str = setting(
        REQUIRED, "PostgreSQL, as the role that owns the database (LOGIN, CREATEROLE).", secret=True
    )
    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(0, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65_535)
    metrics_port: int = setting(0, "Port of the Prometheus page; 0 turns it off.", minimum=0, maximum=65_535)
    instance: str = setting("", "Name of this process; empty: made from host and pid.")
    grace_seconds: float = setting(10.0, "How long stopping may take after SIGTERM, in seconds.", minimum=0.0)
    writers: int = setting(2, "Connections that write, each with a chain of its own.", minimum=1, maximum=16)
    patience_seconds: float = setting(
        3.0, "How long calls wait for a database that is away before they are UNAVAILABLE.", minimum=0.1
    )
    read_connections: int = setting(4, "Most connections that serve reads.", minimum=1, maximum=64)
    keys_directory: Path = setting(Path(".workmesh/keys"), "Where the mesh's keys are.", shared=True)
    lease_seconds: float = setting(
        10.0, "Length of an attempt's lease, in seconds.", shared=True, minimum=0.5
    )
    clock_allowance_seconds: float = setting(
        1.0, "How long after a lease's end its job stays with it, in seconds.", shared=True, minimum=0.0
    )
    log_level: str = setting("info", "debug, info, warning or error.", shared=True)
    otlp_endpoint: str = setting("", "OTLP endpoint for traces; empty turns them off.", shared=True)
