"""The gateway process: composition only."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import replace

from services.gateway.audit_service import AuditService
from services.gateway.config import GatewayConfig
from services.gateway.definition_service import DefinitionService
from services.gateway.definitions import Definitions
from services.gateway.hints import HintListener
from services.gateway.intake import Intake
from services.gateway.job_service import JobService
from services.gateway.ledger import Ledger
from services.gateway.state_service import StateService
from services.gateway.watches import Watches
from workmesh import log, metrics, telemetry
from workmesh.clock import SystemClock
from workmesh.config import parse_command_line
from workmesh.gateway.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from workmesh.gateway.v1.definition_service_pb2_grpc import add_DefinitionServiceServicer_to_server
from workmesh.gateway.v1.job_service_pb2_grpc import add_JobServiceServicer_to_server
from workmesh.gateway.v1.state_service_pb2_grpc import add_StateServiceServicer_to_server
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal

SERVICE = "gateway"


async def main(config: GatewayConfig) -> None:
    """Serve until SIGTERM."""
    log.configure(SERVICE, config.instance, config.log_level)
    spans = telemetry.configure(SERVICE, config.instance, config.otlp_endpoint)
    stop_metrics = metrics.serve_metrics(config.metrics_port, config.host)
    clock = SystemClock()
    channel = open_channel(config.ledger_address)
    ledger = Ledger(
        channel,
        instance=config.instance,
        timeout=config.ledger_timeout_seconds,
        create_pace=config.create_pace_seconds,
        create_flights=config.create_flights,
        read_flights=config.read_flights,
    )
    definitions = Definitions(ledger, clock, config.definition_seconds)
    watches = Watches(config.max_watched_jobs)
    hints = HintListener(config.nats_url, config.instance, watches.changed)
    jobs = JobService(
        Intake(ledger, definitions, clock),
        ledger,
        watches,
        spans,
        max_stream_open_jobs=config.max_stream_open_jobs,
    )
    server = MeshServer(ServerSettings(SERVICE, config.host, config.port, config.grace_seconds))
    server.add(add_JobServiceServicer_to_server, jobs, "workmesh.gateway.v1.JobService")
    server.add(
        add_DefinitionServiceServicer_to_server,
        DefinitionService(ledger, definitions),
        "workmesh.gateway.v1.DefinitionService",
    )
    server.add(add_StateServiceServicer_to_server, StateService(ledger), "workmesh.gateway.v1.StateService")
    server.add(add_AuditServiceServicer_to_server, AuditService(channel), "workmesh.gateway.v1.AuditService")
    for name, batcher in ledger.batchers.items():
        metrics.watch_batcher(SERVICE, name, batcher.stats)
    background = [
        asyncio.create_task(hints.run(), name="hints"),
        asyncio.create_task(watches.sweep_forever(ledger.get_heads, config.sweep_seconds), name="sweep"),
    ]
    for task in background:
        server.watch(task)
    try:
        await serve_until_signal(server, ready=ledger.wait_until_ready)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await ledger.close()
        await hints.close()
        await channel.close()
        spans.close()
        stop_metrics()


def settings() -> GatewayConfig:
    """Return the settings from the environment, the instance named."""
    config = parse_command_line(GatewayConfig, SERVICE)
    return replace(config, instance=config.instance or f"{socket.gethostname()}-{os.getpid()}")


if __name__ == "__main__":
    config = settings()
    run(lambda: main(config))
