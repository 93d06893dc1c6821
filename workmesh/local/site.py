"""Everything fixed about one stack before its first process starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workmesh.local.accounts import Account
from workmesh.local.binaries import Binary
from workmesh.local.home import Profile
from workmesh.local.options import StackOptions


@dataclass(frozen=True)
class Site:
    """Paths, programs, ports and passwords of one stack."""

    profile: Profile
    options: StackOptions
    binaries: Mapping[str, Binary]
    passwords: Mapping[str, str]
    run: Path
    """Folder of the sockets; short, and passable for the account below."""
    cache: Path
    account: Account | None
    """Whom PostgreSQL runs as; None: as this process."""
    edge_port: int
    nats_port: int
    postgres_data: Path

    @property
    def postgres_sockets(self) -> Path:
        """PostgreSQL's socket directory."""
        return self.run / "postgres"

    @property
    def valkey_socket(self) -> Path:
        """Valkey's socket."""
        return self.run / "valkey.sock"

    @property
    def envoy_admin(self) -> Path:
        """The socket of Envoy's administration interface."""
        return self.run / "envoy.sock"

    def external(self, service: str) -> str | None:
        """The URL of a server that runs elsewhere, where there is one."""
        return self.options.external.get(service)
