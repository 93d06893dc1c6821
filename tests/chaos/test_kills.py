"""Nothing is lost and nothing done twice, whatever dies (P1, P2)."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.chaos.freight_run import LEASE_SECONDS, FreightRun, Outcome, freight_mesh
from workmesh.local import Stack

pytestmark = pytest.mark.timeout(240)

PROCESSES = ("gateway", "ledger", "scheduler", "toolhub", "agent-1", "postgres", "nats", "valkey", "envoy")


def assert_nothing_lost_and_nothing_doubled(outcome: Outcome) -> None:
    assert not outcome.findings, "\n".join(map(str, outcome.findings[:20]))
    assert outcome.in_flight_at_mischief >= 1_500


def killing(process: str) -> Callable[[Stack], Awaitable[None]]:
    async def mischief(stack: Stack) -> None:
        assert stack.kill(process, signal.SIGKILL)

    return mischief


@pytest.mark.parametrize("process", PROCESSES)
async def test_a_kill_of_any_process_loses_nothing_and_doubles_nothing(process: str, tmp_path: Path) -> None:
    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, killing(process)).go()
    assert_nothing_lost_and_nothing_doubled(outcome)


async def test_jetstreams_directory_deleted_while_it_runs_is_built_anew(tmp_path: Path) -> None:
    async def mischief(stack: Stack) -> None:
        await asyncio.to_thread(shutil.rmtree, stack.data_directory("nats") / "jetstream")

    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, mischief).go()
    assert_nothing_lost_and_nothing_doubled(outcome)


async def test_jetstreams_directory_deleted_while_it_is_down_is_built_anew(tmp_path: Path) -> None:
    async def mischief(stack: Stack) -> None:
        await stack.stop_process("nats")
        await asyncio.to_thread(shutil.rmtree, stack.data_directory("nats") / "jetstream")
        await stack.start_process("nats")

    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, mischief).go()
    assert_nothing_lost_and_nothing_doubled(outcome)


async def test_a_frozen_agent_that_wakes_after_its_leases_changes_nothing(tmp_path: Path) -> None:
    async def mischief(stack: Stack) -> None:
        stack.pause("agent-1")
        # Longer than lease and clock allowance together: successors have begun when it wakes.
        await asyncio.sleep(LEASE_SECONDS * 2)
        stack.resume("agent-1")

    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, mischief).go()
    assert_nothing_lost_and_nothing_doubled(outcome)
    taken_over = [job for job in outcome.log.jobs if job.lost]
    assert taken_over, "the frozen instance held leases"
    assert all(len(job.ends) == 1 and job.attempts > job.lost for job in taken_over)
