"""The toolhub process: composition only."""

from __future__ import annotations

import os
import random
import socket
from dataclasses import replace
from pathlib import Path

from services.toolhub.admission import Admission
from services.toolhub.calls import Calls
from services.toolhub.catalogue import Catalogue
from services.toolhub.claims import LedgerClaims
from services.toolhub.config import ToolhubConfig
from services.toolhub.drivers import Driver
from services.toolhub.effects import Effects
from services.toolhub.http import HttpDriver
from services.toolhub.integrations import Integration, Kind
from services.toolhub.noop import NoopDriver
from services.toolhub.reading import load_integrations
from services.toolhub.service import SERVICE_NAME, ToolService
from workmesh import keys, log, metrics, telemetry
from workmesh.clock import SystemClock
from workmesh.config import parse_command_line
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal
from workmesh.tokens import TokenVerifier
from workmesh.toolhub.v1.tool_service_pb2_grpc import add_ToolServiceServicer_to_server

SERVICE = "toolhub"


async def main(config: ToolhubConfig) -> None:
    """Serve until SIGTERM."""
    log.configure(SERVICE, config.instance, config.log_level)
    integrations = load_integrations(Path(config.integrations), os.environ) if config.integrations else {}
    public_key = keys.load_public_key(config.keys_directory, keys.TOKENS)
    spans = telemetry.configure(SERVICE, config.instance, config.otlp_endpoint)
    stop_metrics = metrics.serve_metrics(config.metrics_port, config.host)
    clock = SystemClock()

    def connect(integration: Integration) -> Driver:
        return HttpDriver(integration, clock) if integration.kind is Kind.HTTP else NoopDriver()

    catalogue = Catalogue(integrations, connect, clock, random.random)
    channel = open_channel(config.ledger_address)
    claims = LedgerClaims(channel, config.instance, clock)
    calls = Calls(Effects(claims, clock), clock, spans)
    verifier = TokenVerifier(public_key, clock, allowance=config.clock_allowance_seconds)
    admission = Admission(catalogue, verifier)
    service = ToolService(catalogue, admission, calls, clock, max_calls=config.max_calls)
    server = MeshServer(ServerSettings(SERVICE, config.host, config.port, config.grace_seconds))
    server.add(add_ToolServiceServicer_to_server, service, SERVICE_NAME)

    async def ready() -> None:
        # Without unsafe operations nothing here depends on the ledger.
        if catalogue.has_unsafe:
            await claims.wait_until_ready()

    try:
        await serve_until_signal(server, ready=ready, drain=service.drain)
    finally:
        await claims.close()
        await channel.close()
        await catalogue.close()
        spans.close()
        stop_metrics()


def settings() -> ToolhubConfig:
    """Return the settings from the environment, the instance named."""
    config = parse_command_line(ToolhubConfig, SERVICE)
    return replace(config, instance=config.instance or f"{socket.gethostname()}-{os.getpid()}")


if __name__ == "__main__":
    config = settings()
    run(lambda: main(config))
