"""The agent process: composition only."""

from __future__ import annotations

import os
import signal
import socket
from dataclasses import replace

from services.agent.config import AgentConfig
from services.agent.process import AgentProcess
from services.agent.service import SERVICE_NAME, AgentService
from workmesh import log, metrics, telemetry
from workmesh.agent.v1.agent_service_pb2_grpc import add_AgentServiceServicer_to_server
from workmesh.clock import SystemClock
from workmesh.config import ConfigError, parse_command_line
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal
from workmesh.sdk.registry import Registry, RegistryError

SERVICE = "agent"

# What is left of the time to stop once attempts have been handed back: reports, streams, server.
_REPORT_SECONDS = 5.0


class PortServer(MeshServer):
    """A server that remembers its port: an instance tells the scheduler where it is reached."""

    port = 0

    async def start(self) -> int:
        self.port = await super().start()
        return self.port


async def main(config: AgentConfig) -> None:
    """Serve until SIGTERM, or until told to drain."""
    log.configure(SERVICE, config.instance, config.log_level)
    registry = load_handlers(config.handlers)
    spans = telemetry.configure(SERVICE, config.instance, config.otlp_endpoint)
    stop_metrics = metrics.serve_metrics(config.metrics_port, config.host)
    process = AgentProcess(config, registry, SystemClock(), spans, end_process)
    grace = config.grace_seconds + _REPORT_SECONDS
    server = PortServer(ServerSettings(SERVICE, config.host, config.port, grace))
    service = AgentService(process.instance, process.begin_drain)
    server.add(add_AgentServiceServicer_to_server, service, SERVICE_NAME)
    for name, batcher in process.ledger.batchers.items():
        metrics.watch_batcher(SERVICE, name, batcher.stats)

    async def ready() -> None:
        for task in await process.start(config.address or f"{config.host}:{server.port}"):
            server.watch(task)

    try:
        await serve_until_signal(server, ready=ready, drain=process.drain)
    finally:
        await process.close()
        spans.close()
        stop_metrics()


def load_handlers(modules: tuple[str, ...]) -> Registry:
    """Import the handlers; ConfigError says why that does not work."""
    try:
        return Registry.load(modules)
    except RegistryError as error:
        raise ConfigError([f"WORKMESH_HANDLERS: {error}"]) from error


def end_process() -> None:
    """Stop and exit, exactly as SIGTERM does."""
    os.kill(os.getpid(), signal.SIGTERM)


def settings() -> AgentConfig:
    """Return the settings from the environment, the instance named."""
    config = parse_command_line(AgentConfig, SERVICE)
    return replace(config, instance=config.instance or f"{socket.gethostname()}-{os.getpid()}")


if __name__ == "__main__":
    config = settings()
    run(lambda: main(config))
