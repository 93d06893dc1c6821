"""Sites for tests that start nothing."""

from __future__ import annotations

from pathlib import Path

from workmesh.local.home import Profile
from workmesh.local.options import StackOptions
from workmesh.local.site import Site
from workmesh.local.stores import nats, valkey


def make_site(options: StackOptions | None = None) -> Site:
    users = (*nats.USERS, *valkey.USERS)
    return Site(
        profile=Profile("p", Path("/profile")),
        options=options or StackOptions(external={}),
        binaries={},
        passwords={user: f"secret-of-{user}" for user in users},
        run=Path("/run/p"),
        cache=Path("/cache"),
        account=None,
        edge_port=7700,
        nats_port=4222,
        postgres_data=Path("/profile/data/postgres"),
    )
