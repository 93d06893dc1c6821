"""Stacks of a test's own: parts, external servers, order of stopping, failures, the watchdog."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.local.conftest import STORES, survivors
from tests.stack import running
from workmesh.local import Stack, StackError, StackOptions, StartError
from workmesh.local.record import read_record
from workmesh.local.services import SERVICES

UNWATCHED = """
import asyncio, sys
from pathlib import Path
from workmesh.local import Stack, StackOptions

async def main():
    options = StackOptions(pin_to_parent=False)
    async with Stack("p", options=options, only=("postgres", "valkey"), home=Path(sys.argv[1])) as stack:
        print("up", flush=True)
        await asyncio.sleep(120)

asyncio.run(main())
"""


def test_the_watchdog_ends_what_a_killed_runner_leaves_where_the_kernel_does_not(home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", UNWATCHED, str(home)], stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == b"up\n"
        record = read_record(home / "p" / "stack.json")
        assert record is not None
        leaders = [psutil.Process(each.pid) for each in record.processes]
        everything = [*leaders, *(child for each in leaders for child in each.children(recursive=True))]
        runner.kill()
    assert survivors(everything) == []


def test_a_ledger_needs_no_more_than_its_database() -> None:
    with running(only=("postgres", "ledger")) as stack:
        assert set(stack.names) == {"postgres", "ledger"}
        assert stack.ledger_address.startswith("127.0.0.1:")
        assert stack.scheduler_address == ""


def test_it_stops_in_order(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(only=(*STORES, "ledger", "gateway", "envoy"), profile="p", home=home):
        pass
    lines = (home / "p" / "logs" / "stack.log").read_text().splitlines()
    stopped = [line["process"] for line in map(json.loads, lines) if line["action"] == "process_stopped"]
    ranks = [SERVICES[name].stop_rank for name in stopped]
    assert ranks == sorted(ranks, reverse=True)
    assert set(stopped) == {*STORES, "ledger", "gateway", "envoy"}


def test_servers_elsewhere_are_used_by_url(stores: Stack) -> None:
    external = {
        "postgres": stores.database_url(),
        "nats": stores.nats_url(),
        "valkey": stores.valkey_url(),
    }
    with running(StackOptions(external=external), only=(*STORES, "ledger")) as stack:
        assert set(stack.names) == {"ledger"}
        assert stack.database_url() == stores.database_url()


def test_a_server_elsewhere_that_does_not_answer_is_named(tmp_path: Path) -> None:
    nowhere = f"postgresql://workmesh@/workmesh?host={tmp_path}"
    options = StackOptions(external={"postgres": nowhere}, start_seconds=2)
    with pytest.raises(StartError, match="postgres, at the URL given"), running(options, only=("postgres",)):
        pass


def test_a_service_that_cannot_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    options = StackOptions(environment={"valkey": {}, "ledger": {"WORKMESH_LEDGER_WRITERS": "many"}})
    before = set(psutil.Process().children())
    with (
        pytest.raises(StartError, match=r"(?s)ledger is not running.*WORKMESH_LEDGER_WRITERS"),
        running(options, only=("postgres", "ledger")),
    ):
        pass
    assert survivors(list(set(psutil.Process().children()) - before)) == []


def test_without_handlers_there_are_no_agents() -> None:
    with running(StackOptions(handlers=(), agents=4), only=("agent", "valkey")) as stack:
        assert stack.names == ("valkey",)


def test_a_temporary_stack_leaves_no_trace() -> None:
    with running(only=STORES) as stack:
        assert stack.data_directory("postgres").is_relative_to(stack.home)
        traces = [stack.home, stack.data_directory("postgres"), stack.log_path("nats")]
        assert all(path.exists() for path in traces)
    assert not any(path.exists() for path in traces)
    with pytest.raises(StackError, match="does not run"):
        stack.kill("nats")


async def test_two_stacks_run_in_one_process() -> None:
    async with Stack(only=("nats", "valkey")) as one, Stack(only=("nats", "valkey")) as two:
        assert one.nats_url() != two.nats_url()
        assert one.home != two.home
        one.kill("nats", signal.SIGKILL)
        await one.wait_ready("nats")
        assert (one.restarts("nats"), two.restarts("nats")) == (1, 0)
        assert os.getpid() not in (one.pid("nats"), two.pid("nats"))
