"""The stores alone, shared by this folder's tests, and runners as processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.stack import running
from workmesh.local import Stack
from workmesh.local.record import Record, read_record

STORES = ("postgres", "nats", "valkey")
PATIENCE = 60.0


@pytest.fixture(scope="session")
def stores() -> Iterator[Stack]:
    """PostgreSQL, NATS and Valkey."""
    with running(only=STORES) as stack:
        yield stack


@dataclass
class Runner:
    """`python -m workmesh.local up` of one profile."""

    process: subprocess.Popen[bytes]
    profile: Path
    output: Path

    def record(self) -> Record:
        """Its record, once everything is ready."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert self.process.poll() is None, self.output.read_text()
            if "Ctrl-C stops it" in self.output.read_text():
                record = read_record(self.profile / "stack.json")
                assert record is not None
                return record
            time.sleep(0.05)
        raise AssertionError(self.output.read_text())

    def processes(self) -> list[psutil.Process]:
        """The stack's processes and their descendants, as they are now."""
        leaders = [psutil.Process(each.pid) for each in self.record().processes]
        return [*leaders, *(child for leader in leaders for child in leader.children(recursive=True))]

    def end(self, number: int) -> int:
        """Send the runner a signal and wait for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


Up = Callable[..., Runner]


@pytest.fixture
def home() -> Iterator[Path]:
    """A home for profiles that every account can reach, unlike pytest's own folders."""
    path = Path(tempfile.mkdtemp(prefix="workmesh-home-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    for profile in path.iterdir():
        if (profile / "lock").exists():
            local("wipe", "--profile", profile.name, home=path)
    shutil.rmtree(path)


def local(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m workmesh.local` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "workmesh.local", *arguments],
        env={**os.environ, "WORKMESH_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def up(home: Path, tmp_path: Path) -> Iterator[Up]:
    """Starts runners, and ends those that a test leaves."""
    runners: list[Runner] = []

    def start(
        *arguments: str,
        only: Sequence[str] = STORES,
        profile: str = "up",
        home: Path = home,
        environment: Mapping[str, str] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> Runner:
        output = tmp_path / f"output-{len(runners)}"
        command = [*python, "-m", "workmesh.local", "up", "--profile", profile]
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*command, "--only", ",".join(only), *arguments],
                env={**os.environ, "WORKMESH_HOME": str(home), **(environment or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        runners.append(Runner(process, home / profile, output))
        return runners[-1]

    yield start
    for runner in runners:
        if runner.process.poll() is None:
            runner.end(signal.SIGTERM)


def survivors(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Which of them still live after a patient wait; zombies of a container's init do not count."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
