"""What runs where, as the record keeps it."""

from __future__ import annotations

import os
from collections.abc import Iterable

from workmesh.local import edge
from workmesh.local.instance import Instance
from workmesh.local.record import ProcessRecord, Record, identity
from workmesh.local.site import Site
from workmesh.local.stores import postgres


def describe(site: Site, instances: Iterable[Instance]) -> Record:
    """The record of a stack that this process runs."""
    running = tuple(instances)
    behind_edge = any(instance.plan.service == "envoy" for instance in running)
    return Record(
        profile=site.profile.name,
        runner=describe_runner(),
        edge=f"{edge.HOST}:{site.edge_port}" if behind_edge else "",
        run_directory=str(site.run),
        urls=urls(site),
        processes=tuple(_describe_process(instance) for instance in running),
    )


def describe_runner() -> ProcessRecord:
    """This process."""
    return ProcessRecord("runner", "runner", os.getpid(), identity(os.getpid()) or "", "running", 0)


def urls(site: Site) -> dict[str, str]:
    """Addresses of the servers that are not ours, without passwords."""
    here = {
        "postgres": f"{site.postgres_sockets}/.s.PGSQL.{postgres.PORT}",
        "nats": f"127.0.0.1:{site.nats_port}",
        "valkey": str(site.valkey_socket),
        "envoy": f"{edge.HOST}:{site.edge_port}",
    }
    return here | dict.fromkeys(site.options.external, "elsewhere, by URL")


def _describe_process(instance: Instance) -> ProcessRecord:
    plan = instance.plan
    return ProcessRecord(
        name=instance.name,
        service=plan.service,
        pid=instance.pid,
        identity=instance.identity,
        state=str(instance.state),
        restarts=instance.restarts,
        address=plan.address,
        death_signal=int(plan.death_signal),
    )
