"""Passwords of the local servers' users."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = "passwords.json"


def load_passwords(keys: Path, users: Iterable[str]) -> Mapping[str, str]:
    """One password a user, made where absent and kept in the keys folder with mode 0600."""
    path = keys / FILE
    known: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
    missing = {user: secrets.token_urlsafe(24) for user in users if user not in known}
    if missing:
        known |= missing
        write_private(path, json.dumps(known, indent=2, sort_keys=True))
    return known


def write_private(path: Path, text: str) -> None:
    """Put the text in the place of the file, in one step, readable by its owner alone."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.rename(path)
