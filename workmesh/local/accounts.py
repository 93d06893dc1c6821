"""The account that PostgreSQL runs under, and what an account can reach."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from workmesh.local.errors import StackError

# initdb looks its user up by name, so a number without an entry will not do.
CANDIDATES = ("postgres", "nobody", "daemon")


@dataclass(frozen=True)
class Account:
    """A user of the system that is not root."""

    name: str
    uid: int
    gid: int


def postgres_account() -> Account | None:
    """Whom to run PostgreSQL as: for root an account without rights, else None (this process's own).

    Raises:
        StackError: root, and the system has none of the usual accounts.
    """
    if os.geteuid() != 0:
        return None
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        "PostgreSQL does not run as root and the system has none of the accounts "
        f"{', '.join(CANDIDATES)}: add one (useradd --system postgres) or run as an ordinary user"
    )


def may_reach(path: Path, account: Account | None) -> bool:
    """Whether the account may pass every folder down to the path; None is this process, which may."""
    if account is None:
        return True
    real = path.resolve()
    return all(_may_pass(folder.stat(), account) for folder in (real, *real.parents))


def _may_pass(status: os.stat_result, account: Account) -> bool:
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)
