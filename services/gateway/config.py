"""Settings of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from workmesh.config import setting


@dataclass(frozen=True)
class GatewayConfig:
    """What a gateway process is told by its environment."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(0, "Port to listen on; 0 takes a free one.")
    metrics_port: int = setting(0, "Port of the Prometheus page; 0 turns it off.")
    instance: str = setting("", "Name of this process; empty: made from host and pid.")
    grace_seconds: float = setting(10.0, "How long open calls may go on after SIGTERM, in seconds.")
    create_pace_seconds: float = setting(
        0.01, "Least time between two batches of submissions, in seconds; the first goes at once."
    )
    create_flights: int = setting(4, "Batches of submissions under way at one time.")
    read_flights: int = setting(2, "Batches of reads under way at one time.")
    max_watched_jobs: int = setting(200_000, "Jobs that all watches and streams may follow together.")
    max_stream_open_jobs: int = setting(
        20_000, "Accepted jobs of one StreamJobs call that may await completion before it stops reading."
    )
    sweep_seconds: float = setting(2.0, "How often watched jobs are read again in case a hint was lost.")
    definition_seconds: float = setting(1.0, "How long an agent's default version is remembered.")
    ledger_timeout_seconds: float = setting(10.0, "Deadline of a call to the ledger, in seconds.")
    ledger_address: str = setting("127.0.0.1:7710", "Ledger, host:port, comma separated.", shared=True)
    nats_url: str = setting("nats://127.0.0.1:4222", "NATS, with credentials.", shared=True, secret=True)
    log_level: str = setting("info", "debug, info, warning or error.", shared=True)
    otlp_endpoint: str = setting("", "OTLP endpoint for traces; empty turns them off.", shared=True)
