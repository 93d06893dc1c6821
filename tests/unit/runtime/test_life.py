"""A process of the mesh from its start to its exit code, driven by signals as an orchestrator does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(__file__).with_name("service_under_test.py")


class Process:
    """A started service whose log is read line by line."""

    def __init__(self, behavior: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", str(_SCRIPT), behavior], stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []

    def until(self, action: str, message: str = "") -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            record = parse(line)
            if record.get("action") == action and record["message"].startswith(message):
                return
        raise AssertionError(f"no {action} in {self.lines}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> int:
        assert self._process.stderr is not None
        self.lines += self._process.stderr
        return self._process.wait(timeout=30)

    def stages(self) -> list[str]:
        told = (
            "server_serving",
            "signal_received",
            "server_stopped",
            "drain_cut",
            "task_failed",
            "process_failed",
        )
        records = [parse(line) for line in self.lines]
        return [
            record["message"] if record["action"] == "stage" else record["action"]
            for record in records
            if record.get("action") in ("stage", *told)
        ]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(timeout=30)
        assert self._process.stderr is not None
        self._process.stderr.close()


def parse(line: str) -> dict[str, Any]:
    return dict(json.loads(line)) if line.startswith("{") else {}


@pytest.fixture
def start() -> Iterator[Any]:
    started: list[Process] = []

    def make(behavior: str) -> Process:
        started.append(Process(behavior))
        return started[-1]

    yield make
    for process in started:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_the_process_with_0(start: Any, number: signal.Signals) -> None:
    process = start("well")
    process.until("server_serving")
    process.send(number)
    assert process.end() == 0
    assert process.stages() == ["ready", "server_serving", "signal_received", "drain", "server_stopped"]


def test_a_signal_before_readiness_ends_the_process_too(start: Any) -> None:
    process = start("never-ready")
    process.until("stage", "ready")
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert "server_serving" not in process.stages()


def test_a_second_signal_cuts_the_drain_short(start: Any) -> None:
    process = start("drains-for-ever")
    process.until("server_serving")
    process.send(signal.SIGTERM)
    process.until("stage", "drain")
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert process.stages()[-2:] == ["signal_received", "server_stopped"]


def test_a_drain_longer_than_the_grace_is_cut(start: Any) -> None:
    process = start("drains-too-long")
    process.until("server_serving")
    process.send(signal.SIGTERM)
    assert process.end() == 0
    assert process.stages()[-2:] == ["drain_cut", "server_stopped"]


def test_a_service_that_cannot_become_ready_ends_with_1(start: Any) -> None:
    process = start("ready-fails")
    assert process.end() == 1
    assert process.stages()[-1] == "process_failed"
    assert "no database" in process.lines[-1]


def test_a_service_whose_watched_task_fails_ends_with_1(start: Any) -> None:
    process = start("task-fails")
    assert process.end() == 1
    stages = [stage for stage in process.stages() if stage != "server_serving"]
    assert stages == ["ready", "task_failed", "drain", "server_stopped", "process_failed"]


def test_bad_settings_end_with_2_and_name_each_problem(start: Any) -> None:
    process = start("misconfigured")
    assert process.end() == 2
    assert process.lines == ["WORKMESH_TEST_PORT is missing\n", "WORKMESH_TEST_HOST is missing\n"]
