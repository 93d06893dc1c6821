"""Settings of an agent instance."""

from __future__ import annotations

from dataclasses import dataclass

from workmesh.config import REQUIRED, setting


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What an agent instance is told by its environment."""

    handlers: tuple[str, ...] = setting(
        REQUIRED, "Python modules whose @agent functions this instance runs, comma separated.", shared=True
    )
    pools: tuple[str, ...] = setting(("default",), "Pools that this instance serves, comma separated.")
    slots: int = setting(16, "Attempts that may run at one time.", minimum=1, maximum=4_096)
    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(0, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65_535)
    address: str = setting("", "host:port under which others reach this instance; empty: where it listens.")
    metrics_port: int = setting(0, "Port of the Prometheus page; 0 turns it off.", minimum=0, maximum=65_535)
    instance: str = setting("", "Name of this process, unique in the mesh; empty: made from host and pid.")
    grace_seconds: float = setting(
        10.0, "How long running attempts may go on after SIGTERM before they are handed back.", minimum=0.1
    )
    toolhub_patience_seconds: float = setting(
        20.0, "How long a tool call waits for toolhub to come back before it fails, in seconds.", minimum=0.1
    )
    ledger_timeout_seconds: float = setting(5.0, "Deadline of one call to the ledger.", minimum=0.1)
    lease_seconds: float = setting(10.0, "Length of the leases that the ledger grants.", shared=True)
    heartbeat_seconds: float = setting(1.0, "Time between two signs of life.", shared=True, minimum=0.05)
    ledger_address: str = setting("127.0.0.1:7710", "Ledger, host:port, comma separated.", shared=True)
    scheduler_address: str = setting("127.0.0.1:7720", "Scheduler, host:port, comma separated.", shared=True)
    toolhub_address: str = setting("127.0.0.1:7730", "Toolhub, host:port, comma separated.", shared=True)
    log_level: str = setting("info", "debug, info, warning or error.", shared=True)
    otlp_endpoint: str = setting("", "OTLP endpoint for traces; empty turns them off.", shared=True)
