"""PostgreSQL on a Unix socket, under an account of its own where the stack runs as root.

Access is by peer authentication: the kernel says who connects, and only the user that runs the
stack is mapped to the database's roles. So there is no password, and the account that the server
runs under (which other software may use) gets no further than the socket.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import asyncpg
import psutil

from workmesh.local.accounts import Account, may_reach
from workmesh.local.errors import StackError
from workmesh.local.home import Profile
from workmesh.local.site import Site

PORT = 5432  # part of the socket's name only
ROLE = DATABASE = "workmesh"
SUPERUSER = "postgres"
STATE_DIRECTORY = Path("/var/lib/workmesh")
INITDB_SECONDS = 60.0
PROBE_SECONDS = 2.0

# fsync and synchronous_commit are what the promise of durability rests on: never off.
CONFIGURATION = """\
listen_addresses = ''
unix_socket_directories = '{sockets}'
port = {port}
max_connections = 100
shared_buffers = 128MB
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
max_wal_size = 2GB
checkpoint_timeout = 15min
checkpoint_completion_target = 0.9
autovacuum = on
jit = off
io_workers = 1
password_encryption = scram-sha-256
log_line_prefix = '%m [%p] %u '
log_timezone = 'UTC'
timezone = 'UTC'
"""
TEMPLATE_SQL = f"""\
CREATE ROLE {ROLE} LOGIN CREATEROLE;
CREATE DATABASE {DATABASE} OWNER {ROLE};
"""
CLEAN_ENVIRONMENT = {"LANG": "C", "PATH": "/usr/bin:/bin"}


def data_directory(profile: Profile, account: Account | None) -> Path:
    """The profile's own, or for an account that cannot reach it one below /var/lib."""
    if may_reach(profile.path, account):
        return profile.data / "postgres"
    digest = hashlib.sha256(os.fsencode(profile.path)).hexdigest()[:16]
    return STATE_DIRECTORY / digest


def database_url(site: Site, role: str = ROLE) -> str:
    """The URL by which the user that runs the stack connects as the role."""
    external = site.external("postgres")
    return external or f"postgresql://{role}@/{DATABASE}?host={site.postgres_sockets}&port={PORT}"


def command(site: Site) -> list[str]:
    """The server's command line."""
    return [str(_program(site, "postgres")), "-D", str(site.postgres_data)]


async def prepare(site: Site) -> None:
    """Make the data directory, where there is none, and write the configuration."""
    await asyncio.to_thread(_prepare, site)


async def probe(site: Site) -> str | None:
    """Why the database does not answer a query yet; None when it does."""
    try:
        connection = await asyncpg.connect(database_url(site), timeout=PROBE_SECONDS)
        try:
            await connection.fetchval("SELECT 1", timeout=PROBE_SECONDS)
        finally:
            await connection.close(timeout=PROBE_SECONDS)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def remove_data(site_data: Path) -> None:
    """Delete a data directory outside the profile."""
    if site_data.parent == STATE_DIRECTORY and site_data.exists():
        shutil.rmtree(site_data)


def _prepare(site: Site) -> None:
    data, sockets = site.postgres_data, site.postgres_sockets
    sockets.mkdir(exist_ok=True)
    _own(sockets, site.account)
    sockets.chmod(0o700)
    if not (data / "PG_VERSION").exists():
        if data.exists():
            shutil.rmtree(data)
        data.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        _copy(_template(site), data)
        if not site.profile.temporary:
            _as_account(site, "initdb", "--sync-only", "-D", str(data))
    _write_configuration(site)
    _remove_foreign_lock(data)


def _write_configuration(site: Site) -> None:
    files = {
        "postgresql.conf": CONFIGURATION.format(sockets=site.postgres_sockets, port=PORT),
        "pg_hba.conf": "local all all peer map=mesh\n",
        "pg_ident.conf": f'mesh "{pwd.getpwuid(os.geteuid()).pw_name}" all\n',
    }
    for name, text in files.items():
        path = site.postgres_data / name
        path.write_text(text, encoding="utf-8")
        _own(path, site.account)


def _template(site: Site) -> Path:
    """A data directory with role and database, made once a version and kept in the cache."""
    version = site.binaries["postgres"].version
    recipe = hashlib.sha256((TEMPLATE_SQL + sys.platform).encode()).hexdigest()[:8]
    owner = site.account.name if site.account else "own"
    template = site.cache / f"postgres-data-{version}-{owner}-{recipe}"
    if template.is_dir():
        return template
    building = site.cache / f".{template.name}.{os.getpid()}"
    building.mkdir(mode=0o700)
    _own(building, site.account)
    try:
        _build_template(site, building)
        building.rename(template)
    except OSError:
        if not template.is_dir():  # another stack may have been faster
            raise
    finally:
        if building.exists():
            shutil.rmtree(building)
    return template


def _build_template(site: Site, data: Path) -> None:
    _as_account(
        site,
        "initdb",
        "--no-sync",
        "--no-instructions",
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--auth=peer",
        "--encoding=UTF8",
        # The same order of text on every machine, whatever locales it has.
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
    )
    _as_account(site, "postgres", "--single", "-D", str(data), "postgres", text=TEMPLATE_SQL)


def _as_account(site: Site, program: str, *arguments: str, text: str = "") -> None:
    """Run one of PostgreSQL's programs to its end.

    Raises:
        StackError: it failed; carries what it said.
    """
    account = site.account
    done = subprocess.run(
        [str(_program(site, program)), *arguments],
        input=text,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=INITDB_SECONDS,
        env=CLEAN_ENVIRONMENT,
        cwd="/",
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=() if account else None,
    )
    if done.returncode != 0 or "FATAL" in done.stdout:
        raise StackError(f"{program} failed:\n{done.stdout.strip()}")


def _program(site: Site, name: str) -> Path:
    """A program of PostgreSQL's, staged where the account could not reach the wheel."""
    original = site.binaries["postgres"].path
    if may_reach(original.parent, site.account):
        return original.parent / name
    installation = original.parent.parent
    staged = site.cache / f"postgres-{site.binaries['postgres'].version}"
    if not staged.is_dir():
        building = site.cache / f".{staged.name}.{os.getpid()}"
        _copy(installation, building)
        building.chmod(0o755)
        building.rename(staged)
    return staged / "bin" / name


def _copy(source: Path, target: Path) -> None:
    """Copy a folder with owners and modes, sharing blocks where the file system can."""
    reflink = ["--reflink=auto"] if sys.platform == "linux" else ["-c"]
    done = subprocess.run(
        ["cp", "-a", *reflink, str(source), str(target)],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )
    if done.returncode != 0:
        raise StackError(f"cannot copy {source} to {target}: {done.stderr.strip()}")


def _own(path: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(path, account.uid, account.gid)


def _remove_foreign_lock(data: Path) -> None:
    """Delete a postmaster.pid whose number another program has taken since.

    PostgreSQL refuses to start while that number lives under the same user, whatever it runs.
    The profile's lock is held and the last run's processes have ended, so no server of ours is meant.
    """
    lock = data / "postmaster.pid"
    if not lock.exists():
        return
    pid = int(lock.read_text(encoding="ascii").split("\n", 1)[0])
    if psutil.pid_exists(pid) and psutil.Process(pid).name() != "postgres":
        lock.unlink()
