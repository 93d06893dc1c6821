"""The instances of a stack by name and port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

HOST = "127.0.0.1"
NUMBERED = frozenset({"agent"})


@dataclass(frozen=True)
class Replica:
    """One instance of a service. `port` is 0 for those that serve no gRPC."""

    service: str
    index: int
    name: str
    port: int = 0

    @property
    def address(self) -> str:
        """host:port of its gRPC server; empty where it has none."""
        return f"{HOST}:{self.port}" if self.port else ""


def replica_name(service: str, index: int, count: int) -> str:
    """`ledger`, but `ledger-1`, `ledger-2` where there are several; agents always have a number."""
    return f"{service}-{index}" if count > 1 or service in NUMBERED else service


@dataclass
class Roster:
    """All replicas of a stack; grows and shrinks with its scale."""

    replicas: dict[str, Replica] = field(default_factory=dict)

    def add(self, replica: Replica) -> None:
        """Enter a replica."""
        self.replicas[replica.name] = replica

    def remove(self, name: str) -> Replica:
        """Strike a replica out."""
        return self.replicas.pop(name)

    def of(self, service: str) -> Sequence[Replica]:
        """The replicas of a service in the order of their numbers."""
        found = [replica for replica in self.replicas.values() if replica.service == service]
        return sorted(found, key=lambda replica: replica.index)

    def addresses(self, service: str) -> str:
        """Their addresses as a comma list; empty where there are none."""
        return ",".join(replica.address for replica in self.of(service))
