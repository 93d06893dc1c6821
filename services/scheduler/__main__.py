"""The scheduler process: composition only."""

from __future__ import annotations

import os
import socket
from dataclasses import replace

from services.scheduler.assembly import Scheduler
from services.scheduler.config import SchedulerConfig
from services.scheduler.service import LEASE_SERVICE, SCHEDULER_SERVICE
from workmesh import log, metrics, telemetry
from workmesh.clock import SystemClock
from workmesh.config import parse_command_line
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal
from workmesh.scheduler.v1.lease_service_pb2_grpc import add_LeaseServiceServicer_to_server
from workmesh.scheduler.v1.scheduler_service_pb2_grpc import add_SchedulerServiceServicer_to_server

SERVICE = "scheduler"


async def main(config: SchedulerConfig) -> None:
    """Serve until SIGTERM."""
    log.configure(SERVICE, config.instance, config.log_level)
    spans = telemetry.configure(SERVICE, config.instance, config.otlp_endpoint)
    stop_metrics = metrics.serve_metrics(config.metrics_port, config.host)
    channel = open_channel(config.ledger_address)
    scheduler = Scheduler(config, channel, SystemClock())
    server = MeshServer(ServerSettings(SERVICE, config.host, config.port, config.grace_seconds))
    server.add(add_LeaseServiceServicer_to_server, scheduler.leases, LEASE_SERVICE)
    server.add(add_SchedulerServiceServicer_to_server, scheduler.operations, SCHEDULER_SERVICE)
    try:
        for task in await scheduler.start():
            server.watch(task)
        await serve_until_signal(server, ready=scheduler.wait_ready, drain=scheduler.drain)
    finally:
        await scheduler.close()
        await channel.close()
        spans.close()
        stop_metrics()


def settings() -> SchedulerConfig:
    """Return the settings from the environment, the instance named."""
    config = parse_command_line(SchedulerConfig, SERVICE)
    return replace(config, instance=config.instance or f"{socket.gethostname()}-{os.getpid()}")


if __name__ == "__main__":
    config = settings()
    run(lambda: main(config))
