"""Where a stack keeps its things.

`$WORKMESH_HOME` (default `.workmesh`) has one folder a profile:

    <profile>/lock          held by the runner while it lives
    <profile>/stack.json    what runs where (see record.py)
    <profile>/logs/         one file a process
    <profile>/keys/         keys and passwords, mode 0600
    <profile>/config/       what is rendered for the servers
    <profile>/data/         the servers' data
    <profile>/run/          sockets, unless the path is too long for them
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workmesh.local.accounts import Account, may_reach
from workmesh.local.errors import AlreadyRunningError, StackError

DEFAULT_HOME = ".workmesh"
TEMPORARY_PREFIX = "workmesh-"
RUN_PREFIX = "wm-"
# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the final zero included.
LONGEST_SOCKET_PATH = 103
LONGEST_SOCKET_NAME = "/postgres/.s.PGSQL.5432"


@dataclass(frozen=True)
class Profile:
    """The folder of one stack."""

    name: str
    path: Path
    temporary: bool = False

    @property
    def logs(self) -> Path:
        """Logs, one file a process."""
        return self.path / "logs"

    @property
    def keys(self) -> Path:
        """Keys and passwords."""
        return self.path / "keys"

    @property
    def config(self) -> Path:
        """Rendered configuration."""
        return self.path / "config"

    @property
    def data(self) -> Path:
        """Data of the servers."""
        return self.path / "data"

    @property
    def record(self) -> Path:
        """The stack's record."""
        return self.path / "stack.json"

    def make(self) -> None:
        """Create the folders. The outer one lets another user pass, never list."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o711)
        self.data.mkdir(exist_ok=True)
        self.data.chmod(0o711)
        for private in (self.logs, self.keys, self.config):
            private.mkdir(exist_ok=True)
            private.chmod(0o700)

    def wipe(self) -> None:
        """Delete keys, data, logs and configuration; the lock and the record stay."""
        for folder in (self.data, self.keys, self.config, self.logs):
            if folder.exists():
                shutil.rmtree(folder)


def home_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """`$WORKMESH_HOME`, absolute."""
    return Path(environ.get("WORKMESH_HOME") or DEFAULT_HOME).absolute()


def open_profile(name: str | None, home: Path) -> Profile:
    """The profile of that name, or without a name a new temporary one.

    Raises:
        StackError: the name is not one.
    """
    if name is None:
        path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
        return Profile(path.name, path, temporary=True)
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise StackError(f"a profile is named with a-z, 0-9 and dashes, not {name!r}")
    return Profile(name, home / name)


class FileLock:
    """An flock, which ends with its process however that ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock; False where another has it."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ProfileLock:
    """One runner a profile; as a context manager too."""

    def __init__(self, profile: Profile) -> None:
        self._lock = FileLock(profile.path / "lock")
        self._profile = profile

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            AlreadyRunningError: a live runner has it.
        """
        if not self._lock.try_acquire():
            name, path = self._profile.name, self._profile.path
            raise AlreadyRunningError(f"profile {name} is already running ({path})")

    def release(self) -> None:
        """Give the lock back; harmless when it is not held."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *failure: object) -> None:
        self.release()


def choose_run_directory(profile: Profile, account: Account | None) -> Path:
    """A folder for sockets: the profile's own, or a short one in /tmp.

    The short one is for a profile whose path would make a socket's name too long, or that the
    account that PostgreSQL runs under cannot reach.
    """
    own = profile.path / "run"
    fits = len(os.fsencode(str(own) + LONGEST_SOCKET_NAME)) <= LONGEST_SOCKET_PATH
    if fits and may_reach(profile.path, account):
        own.mkdir(exist_ok=True)
        run = own
    else:
        run = Path(tempfile.mkdtemp(prefix=RUN_PREFIX, dir="/tmp"))
    run.chmod(0o711)
    return run


def remove_run_directory(run: Path) -> None:
    """Delete a run directory: sockets of ended processes."""
    if run.is_symlink() or not run.is_dir() or run.stat().st_uid != os.geteuid():
        return
    if run.name == "run" or run.name.startswith(RUN_PREFIX):
        shutil.rmtree(run)


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where what is costly to make is kept for later stacks: a prepared database, staged programs.

    For root a folder every account can reach, for others their XDG cache, else the home of workmesh.

    Raises:
        StackError: none of them can be written.
    """
    if os.geteuid() == 0:
        choices = [Path("/var/cache/workmesh")]
    else:
        base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/nonexistent", ".cache")
        choices = [Path(base, "workmesh")]
    choices.append(home_directory(environ) / "cache")
    for choice in choices:
        try:
            choice.mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError:
            continue
        if os.access(choice, os.W_OK | os.X_OK):
            return choice
    raise StackError(f"none of these folders can be written: {', '.join(map(str, choices))}")
