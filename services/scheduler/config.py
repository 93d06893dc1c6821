"""Settings of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from workmesh.config import setting


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What a scheduler process is told by its environment."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(0, "Port to listen on; 0 takes a free one.", minimum=0, maximum=65_535)
    metrics_port: int = setting(0, "Port of the Prometheus page; 0 turns it off.", minimum=0, maximum=65_535)
    instance: str = setting("", "Name of this process; empty: made from host and pid.")
    grace_seconds: float = setting(5.0, "How long stopping may take after SIGTERM, in seconds.", minimum=0.0)
    replicas: int = setting(1, "Copies that JetStream keeps of the queues.", minimum=1, maximum=5)
    standard_share: float = setting(
        0.1, "Least share of a pool's turns that waiting standard jobs get.", minimum=0.0, maximum=0.4
    )
    batch_share: float = setting(
        0.05, "Least share of a pool's turns that waiting batch jobs get.", minimum=0.0, maximum=0.4
    )
    singleton_seconds: float = setting(
        3.0, "Lease under which one scheduler projects, in seconds.", minimum=1.0, maximum=300.0
    )
    cursor_seconds: float = setting(
        0.25, "Least time between two stores of the feed's cursor, in seconds.", minimum=0.0
    )
    storage_check_seconds: float = setting(
        1.0, "How often JetStream's storage is checked for being there, in seconds.", minimum=0.1
    )
    stall_seconds: float = setting(
        3.0, "How long publishes may fail while NATS answers before the queues are rebuilt.", minimum=0.5
    )
    stats_seconds: float = setting(5.0, "How often queues are counted for the metrics.", minimum=0.5)
    ledger_address: str = setting("127.0.0.1:7710", "Ledger, host:port, comma separated.", shared=True)
    nats_url: str = setting("nats://127.0.0.1:4222", "NATS, with credentials.", shared=True, secret=True)
    lease_seconds: float = setting(
        10.0, "Length of an attempt's lease, in seconds.", shared=True, minimum=0.5
    )
    clock_allowance_seconds: float = setting(
        1.0, "Difference allowed between two clocks, in seconds.", shared=True, minimum=0.0
    )
    heartbeat_seconds: float = setting(
        1.0, "How often instances give a sign of life, in seconds.", shared=True, minimum=0.05
    )
    ack_wait_seconds: float = setting(
        30.0,
        "After how long an unacknowledged message is delivered again, in seconds.",
        shared=True,
        minimum=0.5,
    )
    log_level: str = setting("info", "debug, info, warning or error.", shared=True)
    otlp_endpoint: str = setting("", "OTLP endpoint for traces; empty turns them off.", shared=True)
