"""The environment of each process."""

from __future__ import annotations

import os
from collections.abc import Mapping

from workmesh.local.replica import HOST, Replica, Roster
from workmesh.local.site import Site
from workmesh.local.stores import nats, postgres, valkey

# What a server of others needs of the caller's environment. Not the rest: PGPORT and its like would
# change what it does.
PLAIN = ("PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH")
# Known to the stack alone: addresses and passwords of other services.
PRIVATE_PREFIX = "WORKMESH_LOCAL_"
NATS_USERS = {"scheduler": nats.SCHEDULER, "gateway": nats.GATEWAY}


def plain_environment(site: Site, roster: Roster, replica: Replica) -> dict[str, str]:
    """For a server that is not ours."""
    kept = {name: os.environ[name] for name in PLAIN if name in os.environ}
    return kept | dict(site.options.environment.get(replica.service, {}))


def service_environment(site: Site, roster: Roster, replica: Replica) -> dict[str, str]:
    """For a service of ours: the caller's environment, what the stack sets, what the options add."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE_PREFIX)}
    added = site.options.environment
    return {
        **inherited,
        **shared_settings(site, roster, replica.service),
        **own_settings(site, replica),
        **added.get("*", {}),
        **added.get(replica.service, {}),
        **added.get(replica.name, {}),
    }


def shared_settings(site: Site, roster: Roster, service: str) -> dict[str, str]:
    """Settings that every service of ours gets, with the credentials of this one."""
    options = site.options
    settings = {
        "WORKMESH_LEDGER_ADDRESS": roster.addresses("ledger"),
        "WORKMESH_SCHEDULER_ADDRESS": roster.addresses("scheduler"),
        "WORKMESH_TOOLHUB_ADDRESS": roster.addresses("toolhub"),
        "WORKMESH_VALKEY_URL": valkey.url(site, f"valkey-{service}"),
        "WORKMESH_KEYS_DIRECTORY": str(site.profile.keys),
        "WORKMESH_LOG_LEVEL": options.log_level,
        "WORKMESH_LEASE_SECONDS": str(options.lease_seconds),
        "WORKMESH_ACK_WAIT_SECONDS": str(options.ack_wait_seconds),
        "PYTHONUNBUFFERED": "1",
    }
    if service in NATS_USERS:
        settings["WORKMESH_NATS_URL"] = nats.url(site, NATS_USERS[service])
    return settings


def own_settings(site: Site, replica: Replica) -> Mapping[str, str]:
    """Settings of this service and this instance."""
    prefix = f"WORKMESH_{replica.service.upper()}"
    settings = {
        f"{prefix}_HOST": HOST,
        f"{prefix}_PORT": str(replica.port),
        f"{prefix}_INSTANCE": replica.name,
    }
    options = site.options
    if replica.service == "ledger":
        settings["WORKMESH_LEDGER_DATABASE_URL"] = postgres.database_url(site)
    if replica.service == "toolhub" and options.integrations is not None:
        settings["WORKMESH_TOOLHUB_INTEGRATIONS"] = str(options.integrations.absolute())
    if replica.service == "agent":
        settings["WORKMESH_AGENT_SLOTS"] = str(options.slots)
        settings["WORKMESH_HANDLERS"] = ",".join(options.handlers)
    return settings
