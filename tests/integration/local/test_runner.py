"""`python -m workmesh.local up` as a process: how it ends, and that nothing is left."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.integration.local.conftest import STORES, Up, local, survivors
from tests.unit.local.sites import make_site
from workmesh.local import binaries
from workmesh.local.accounts import Account, may_reach, postgres_account
from workmesh.local.home import Profile
from workmesh.local.record import identity, read_record, write_record
from workmesh.local.stores import postgres


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_in_order_and_leaves_nothing(up: Up, number: signal.Signals) -> None:
    runner = up()
    processes = runner.processes()
    assert runner.end(number) == 0, runner.output.read_text()
    assert survivors(processes) == []
    assert read_record(runner.profile / "stack.json") is None
    assert not (runner.profile / "run").exists()


def test_a_killed_runner_leaves_no_orphan(up: Up) -> None:
    runner = up(only=(*STORES, "envoy"))
    processes = runner.processes()
    assert len(processes) > 6
    runner.end(signal.SIGKILL)
    assert survivors(processes) == []


def test_the_next_start_follows_a_killed_runner(up: Up) -> None:
    up().end(signal.SIGKILL)
    again = up()
    assert {process.name for process in again.record().processes} == set(STORES)
    assert again.end(signal.SIGTERM) == 0


def test_what_a_killed_runner_left_is_ended_and_nothing_else(up: Up) -> None:
    runner = up(only=("valkey",))
    record = runner.record()
    runner.end(signal.SIGTERM)
    sleeper = [sys.executable, "-c", "import time; time.sleep(120)"]
    left = subprocess.Popen(sleeper, start_new_session=True)
    foreign = subprocess.Popen(sleeper, start_new_session=True)
    (seen,) = record.processes
    ours = replace(seen, pid=left.pid, identity=identity(left.pid) or "")
    recycled = replace(seen, pid=foreign.pid, identity="of a process long gone")
    write_record(runner.profile / "stack.json", replace(record, processes=(ours, recycled)))
    again = up(only=("valkey",))
    again.record()
    assert left.wait(5) == -signal.SIGKILL
    assert foreign.poll() is None
    foreign.kill()
    foreign.wait()


def test_one_profile_has_one_runner(up: Up) -> None:
    up(only=("valkey",)).record()
    second = up(only=("valkey",))
    assert second.process.wait(60) == 1
    assert "profile up is already running" in second.output.read_text()


def test_two_profiles_run_beside_each_other(up: Up) -> None:
    everything = (*STORES, "envoy")
    runners = [up(only=everything, profile=name) for name in ("up", "demo")]
    assert len({runner.record().edge for runner in runners}) == 2
    assert [runner.end(signal.SIGTERM) for runner in runners] == [0, 0]


def test_status_and_down_reach_it_from_another_terminal(up: Up, home: Path) -> None:
    runner = up(only=("nats", "valkey"))
    runner.record()
    seen = local("status", home=home)
    assert seen.returncode == 0
    assert "valkey" in seen.stdout
    processes = runner.processes()
    assert local("down", home=home).returncode == 0
    assert runner.process.wait(60) == 0
    assert survivors(processes) == []
    assert local("status", home=home).returncode == 1


def test_an_interrupted_start_leaves_nothing(up: Up) -> None:
    runner = up(only=STORES)
    while not (runner.profile / "stack.json").exists():
        assert runner.process.poll() is None, runner.output.read_text()
    children = psutil.Process(runner.process.pid).children(recursive=True)
    runner.end(signal.SIGINT)
    assert survivors(children) == []
    assert not (runner.profile / "stack.json").exists()


def test_data_stays_from_one_run_to_the_next_until_it_is_wiped(up: Up) -> None:
    kept = []
    for arguments in ((), (), ("--wipe",)):
        runner = up(*arguments, only=("postgres",))
        runner.record()
        kept.append((runner.profile / "keys" / "passwords.json").read_text())
        runner.end(signal.SIGTERM)
    assert kept[0] == kept[1] != kept[2]


def test_the_edge_takes_another_port_where_the_preferred_one_is_taken(up: Up) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        taken = server.getsockname()[1]
        runner = up("--port", str(taken), only=("envoy",))
        assert not runner.record().edge.endswith(f":{taken}")


def test_a_long_path_does_not_break_the_sockets(up: Up, home: Path) -> None:
    runner = up(only=("postgres", "valkey"), profile="long-" * 12 + "end", home=home)
    run = Path(runner.record().run_directory)
    assert run.is_relative_to("/tmp")
    assert len(str(run)) < 40
    runner.end(signal.SIGTERM)
    assert not run.exists()


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def python_for(account: Account) -> dict[str, str]:
    """An interpreter that the account can run, and the environment in which it finds what this one finds."""
    candidates = [sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"]
    for path in map(Path, candidates):
        if path.exists() and may_reach(path.resolve().parent, account):
            return {
                "PYTHON": str(path),
                "PYTHONPATH": os.pathsep.join(each for each in sys.path if each.endswith("site-packages")),
                "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
                "HOME": "/nonexistent",
            }
    pytest.skip(f"no interpreter that {account.name} could run")


@root_only
def test_an_ordinary_user_runs_it_too(up: Up, home: Path) -> None:
    entry = pwd.getpwnam("nobody")
    environment = python_for(Account("nobody", entry.pw_uid, entry.pw_gid))
    shutil.chown(home, "nobody")
    runner = up(
        only=(*STORES, "envoy"),
        python=("setpriv", "--reuid=nobody", "--clear-groups", environment["PYTHON"]),
        environment=environment,
    )
    assert {process.username() for process in runner.processes()} == {"nobody"}
    assert runner.end(signal.SIGTERM) == 0


@root_only
def test_root_runs_the_database_as_one_who_cannot_reach_the_profile(up: Up, home: Path) -> None:
    home.chmod(0o700)
    runner = up(only=("postgres",))
    (database,) = runner.record().processes
    data = postgres.data_directory(Profile("up", home / "up"), postgres_account())
    assert data.is_relative_to("/var/lib/workmesh")
    assert psutil.Process(database.pid).uids().effective == data.stat().st_uid != 0
    assert runner.end(signal.SIGTERM) == 0
    assert local("wipe", home=home).returncode == 0
    assert not data.exists()
    assert not (home / "up").exists()


@root_only
def test_the_programs_are_staged_where_the_account_cannot_reach_the_wheel(home: Path) -> None:
    home.chmod(0o711)
    hidden = home / "hidden"
    hidden.mkdir(mode=0o700)
    wheel = binaries.find_postgres()
    assert wheel is not None
    shutil.copytree(wheel.parents[1], hidden / "pginstall18", symlinks=True)
    cache = home / "cache"
    cache.mkdir(mode=0o755)
    found = binaries.Binary(hidden / "pginstall18" / "bin" / "postgres", "18.4")
    account = postgres_account()
    site = replace(make_site(), binaries={"postgres": found}, cache=cache, account=account)
    program = Path(postgres.command(site)[0])
    assert program.is_relative_to(cache)
    assert may_reach(program.parent, account)
    assert binaries.ask_version(program) == binaries.ask_version(wheel)
