"""Settings of toolhub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workmesh.config import REQUIRED, setting


@dataclass(frozen=True, slots=True)
class ToolhubConfig:
    """What a toolhub process is told by its environment."""

    integrations: str = setting(
        "", "YAML file of the integrations, ${NAME} in it stands for a variable; empty: no tools."
    )
    keys_directory: Path = setting(REQUIRED, "Directory that holds tokens.pub.", shared=True)
    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(0, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65_535)
    metrics_port: int = setting(0, "Port of the Prometheus page; 0 turns it off.", minimum=0, maximum=65_535)
    instance: str = setting("", "Name of this process; empty: made from host and pid.")
    grace_seconds: float = setting(10.0, "How long calls may go on after SIGTERM, in seconds.", minimum=0.0)
    max_calls: int = setting(1_024, "Calls under way on one stream at most.", minimum=1, maximum=20_000)
    ledger_address: str = setting(
        "127.0.0.1:7710", "Ledger, host:port, comma separated; asked for unsafe operations only.", shared=True
    )
    clock_allowance_seconds: float = setting(
        1.0, "Difference allowed between this clock and the database's, in seconds.", shared=True, minimum=0.0
    )
    log_level: str = setting("info", "debug, info, warning or error.", shared=True)
    otlp_endpoint: str = setting("", "OTLP endpoint for traces; empty turns them off.", shared=True)
