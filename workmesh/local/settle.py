"""Turns a profile and options into a site: folders, keys, programs, ports."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from workmesh import keys
from workmesh.local.accounts import postgres_account
from workmesh.local.binaries import preflight
from workmesh.local.home import Profile, cache_directory, choose_run_directory, remove_run_directory
from workmesh.local.options import StackOptions
from workmesh.local.passwords import load_passwords
from workmesh.local.ports import PortPicker
from workmesh.local.record import end_stale, read_record
from workmesh.local.services import SERVICES
from workmesh.local.site import Site
from workmesh.local.stores import nats, postgres, valkey


def clear_predecessor(profile: Profile) -> list[str]:
    """End what a killed runner of the profile left running; answers the names. Needs the profile's lock."""
    record = read_record(profile.record)
    if record is None:
        return []
    ended = end_stale(record)
    remove_run_directory(Path(record.run_directory))
    profile.record.unlink()
    return ended


def settle(profile: Profile, options: StackOptions, services: Iterable[str], ports: PortPicker) -> Site:
    """Make the folders and keys, find the programs, choose the ports.

    Raises:
        StackError: among others PreflightError, where the machine lacks something.
    """
    profile.make()
    here = set(services) - options.external.keys()
    account = postgres_account() if "postgres" in here else None
    data = postgres.data_directory(profile, account)
    binaries = preflight(name for name in here if SERVICES[name].binary)
    if options.wipe:
        postgres.remove_data(data)
        profile.wipe()
        profile.make()
    cache = cache_directory()
    keys.make_keys(profile.keys)
    return Site(
        profile=profile,
        options=options,
        binaries=binaries,
        passwords=load_passwords(profile.keys, (*nats.USERS, *valkey.USERS)),
        run=choose_run_directory(profile, account),
        cache=cache,
        account=account,
        edge_port=ports.prefer(options.edge_port, cache),
        nats_port=ports.pick(),
        postgres_data=data,
    )
