from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from workmesh.local.accounts import Account
from workmesh.local.errors import AlreadyRunningError, StackError
from workmesh.local.home import (
    LONGEST_SOCKET_NAME,
    LONGEST_SOCKET_PATH,
    Profile,
    ProfileLock,
    choose_run_directory,
    home_directory,
    open_profile,
    remove_run_directory,
)

STRANGER = Account("stranger", 64_999, 64_999)


def made(path: Path) -> Profile:
    profile = Profile("p", path)
    profile.make()
    return profile


def test_home_is_what_the_environment_says() -> None:
    assert home_directory({"WORKMESH_HOME": "/somewhere"}) == Path("/somewhere")
    assert home_directory({}) == Path.cwd() / ".workmesh"


@pytest.mark.parametrize("name", ["", "..", "a/b", "Up", "-x", "x" * 64])
def test_a_profile_has_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(StackError):
        open_profile(name, tmp_path)


def test_keys_logs_and_configuration_are_private(tmp_path: Path) -> None:
    profile = made(tmp_path / "p")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in profile.path.iterdir()}
    assert modes == {"keys": 0o700, "logs": 0o700, "config": 0o700, "data": 0o711}


def test_wiping_leaves_the_lock(tmp_path: Path) -> None:
    profile = made(tmp_path / "p")
    (profile.path / "lock").touch()
    (profile.data / "nats").mkdir()
    profile.wipe()
    assert [path.name for path in profile.path.iterdir()] == ["lock"]


def test_a_profile_has_one_runner(tmp_path: Path) -> None:
    profile = made(tmp_path / "p")
    first, second = ProfileLock(profile), ProfileLock(profile)
    first.acquire()
    with pytest.raises(AlreadyRunningError, match="profile p is already running"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_a_child_does_not_inherit_the_lock(tmp_path: Path) -> None:
    profile = made(tmp_path / "p")
    lock, successor = ProfileLock(profile), ProfileLock(profile)
    lock.acquire()
    code = "print('on', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, close_fds=False
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"on\n"
        lock.release()
        successor.acquire()
        successor.release()
        child.kill()


def test_sockets_lie_in_the_profile_where_the_path_is_short(tmp_path: Path) -> None:
    profile = made(tmp_path / "p")
    assert choose_run_directory(profile, None) == profile.path / "run"


def test_sockets_lie_in_a_short_folder_where_the_path_is_long(tmp_path: Path) -> None:
    profile = made(tmp_path / ("x" * LONGEST_SOCKET_PATH))
    run = choose_run_directory(profile, None)
    assert len(str(run) + LONGEST_SOCKET_NAME) <= LONGEST_SOCKET_PATH
    remove_run_directory(run)
    assert not run.exists()


def test_sockets_lie_where_the_account_of_the_database_can_reach_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    run = choose_run_directory(made(tmp_path / "p"), STRANGER)
    assert not run.is_relative_to(tmp_path)
    remove_run_directory(run)


def test_only_run_directories_are_removed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    remove_run_directory(other)
    link = tmp_path / "run"
    link.symlink_to(other)
    remove_run_directory(link)
    assert other.exists()
