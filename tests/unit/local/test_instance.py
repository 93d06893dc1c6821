"""Supervision of real, small processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest

from workmesh.clock import SystemClock
from workmesh.local.errors import StartError
from workmesh.local.events import EventLog, Happening
from workmesh.local.instance import Instance, Plan, State, describe_exit, rotate
from workmesh.local.restart import RestartPolicy

POLICY = RestartPolicy(first=0.01, multiplier=2.0, longest=0.1)
SLEEP = "import time; time.sleep(60)"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open({flag!r}, "w")
time.sleep(60)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({flag!r}, "w").write(str(child.pid))
time.sleep(60)
"""

Make = Callable[..., Instance]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Makes instances that are stopped after the test."""
    made: list[Instance] = []
    with (tmp_path / "stack.log").open("w") as log:
        events = EventLog(log, SystemClock())

        def build(
            code: str,
            *,
            ready: Callable[[], bool] = lambda: True,
            stop_seconds: float = 5.0,
            changed: Callable[[], None] = lambda: None,
        ) -> Instance:
            async def probe() -> str | None:
                return None if ready() else "not yet"

            plan = Plan(
                name="x",
                service="x",
                command=[sys.executable, "-c", code],
                environment=dict(os.environ),
                probe=probe,
                log=tmp_path / "x.log",
                stop_seconds=stop_seconds,
            )
            made.append(
                Instance(plan, policy=POLICY, clock=SystemClock(), events=events, pin=False, changed=changed)
            )
            return made[-1]

        yield build
        await asyncio.gather(*(instance.stop() for instance in made))


async def started(instance: Instance) -> Instance:
    instance.start()
    await asyncio.wait_for(instance.wait_ready(), 10)
    return instance


def kinds(instance: Instance) -> list[Happening]:
    return [event.kind for event in instance._events]


async def test_what_is_killed_is_started_again(make: Make) -> None:
    instance = await started(make(SLEEP))
    first = instance.signal(signal.SIGKILL)
    await asyncio.wait_for(instance.wait_ready(), 10)
    assert instance.pid not in (0, first)
    assert instance.restarts == 1
    assert kinds(instance) == [
        Happening.STARTED,
        Happening.READY,
        Happening.SIGNALLED,
        Happening.EXITED,
        Happening.STARTED,
        Happening.READY,
    ]


async def test_it_is_not_ready_from_the_moment_of_the_fatal_signal(make: Make) -> None:
    instance = await started(make(SLEEP))
    instance.signal(signal.SIGKILL)
    assert instance.state is not State.READY


async def test_a_frozen_process_is_left_frozen(make: Make) -> None:
    instance = await started(make(SLEEP))
    pid = instance.signal(signal.SIGSTOP)
    assert (instance.state, instance.pid) == (State.READY, pid)
    assert instance.signal(signal.SIGCONT) == pid
    assert instance.restarts == 0


async def test_one_that_never_becomes_ready_before_it_dies_is_given_up(make: Make) -> None:
    instance = make("print('no such setting'); raise SystemExit(2)", ready=lambda: False)
    instance.start()
    with pytest.raises(StartError, match=r"(?s)exited with 2.*no such setting"):
        await asyncio.wait_for(instance.wait_ready(), 10)
    assert instance.state is State.STOPPED
    assert kinds(instance).count(Happening.STARTED) == 4


async def test_one_that_was_ready_once_is_never_given_up(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "healthy"
    flag.touch()
    changes = asyncio.Event()
    code = f"import os, time; os.path.exists({str(flag)!r}) or exit(3); time.sleep(60)"
    instance = make(code, changed=changes.set)
    await started(instance)
    flag.unlink()
    instance.signal(signal.SIGKILL)
    async with asyncio.timeout(10):
        while kinds(instance).count(Happening.EXITED) < 6:
            changes.clear()
            await changes.wait()
    flag.touch()
    await asyncio.wait_for(instance.wait_ready(), 10)
    assert instance.restarts >= 6


async def test_stopping_is_polite_and_final(make: Make) -> None:
    instance = await started(make(SLEEP))
    await instance.stop()
    assert (instance.pid, instance.state) == (0, State.STOPPED)
    assert kinds(instance)[-1] is Happening.STOPPED
    await instance.stop()
    assert kinds(instance).count(Happening.STOPPED) == 1
    assert (await started(instance)).pid


async def test_one_that_ignores_politeness_is_killed(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "deaf"
    instance = await started(make(STUBBORN.format(flag=str(flag)), ready=flag.exists, stop_seconds=0.2))
    await instance.stop()
    assert [event.detail for event in instance._events][-1] == "ended by SIGKILL"


async def test_a_frozen_process_can_be_stopped(make: Make) -> None:
    instance = await started(make(SLEEP))
    instance.signal(signal.SIGSTOP)
    begun = time.monotonic()
    await instance.stop()
    assert time.monotonic() - begun < instance.plan.stop_seconds


async def test_what_a_process_started_does_not_outlive_it(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "child"
    instance = await started(
        make(PARENT.format(flag=str(flag)), ready=lambda: flag.exists() and bool(flag.read_text()))
    )
    child = int(flag.read_text())
    instance.signal(signal.SIGKILL)
    await asyncio.to_thread(psutil.Process(child).wait, 10)


async def test_the_command_keeps_the_id_that_is_watched(make: Make, tmp_path: Path) -> None:
    flag = tmp_path / "pid"
    code = f"import os, time; open({str(flag)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    instance = await started(make(code, ready=lambda: flag.exists() and bool(flag.read_text())))
    assert int(flag.read_text()) == instance.pid


def test_exits_are_told_in_words() -> None:
    assert describe_exit(-9) == "ended by SIGKILL"
    assert describe_exit(3) == "exited with 3"


def test_a_large_log_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"small")
    rotate(log)
    assert log.exists()
    with log.open("wb") as file:
        file.truncate((32 << 20) + 1)
    rotate(log)
    assert not log.exists()
    assert (tmp_path / "x.log.1").stat().st_size == (32 << 20) + 1
