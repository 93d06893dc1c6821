"""Nothing is lost and nothing done twice, whatever dies (P1, P2).

The suite runs one mesh in which everything dies in turn; `make test-long` each death by itself with more than
2,000 jobs in flight.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path

import pytest

from tests.chaos.freight_run import LEASE_SECONDS, FreightRun, Mischief, Outcome, freight_mesh
from workmesh.local import Stack

PROCESSES = ("gateway", "ledger", "scheduler", "toolhub", "agent-1", "postgres", "nats", "valkey", "envoy")
IN_FLIGHT = 2_000


def assert_nothing_lost_and_nothing_doubled(outcome: Outcome) -> None:
    assert not outcome.findings, "\n".join(map(str, outcome.findings[:20]))


def killing(process: str) -> Mischief:
    async def mischief(stack: Stack) -> None:
        assert stack.kill(process, signal.SIGKILL)

    return mischief


async def delete_jetstream(stack: Stack) -> None:
    directory = stack.data_directory("nats") / "jetstream"
    # It may be gone from an earlier time.
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


async def delete_jetstream_while_it_is_down(stack: Stack) -> None:
    await stack.stop_process("nats")
    await delete_jetstream(stack)
    await stack.start_process("nats")


async def freeze_an_agent(stack: Stack) -> None:
    stack.pause("agent-1")
    # Longer than lease and clock allowance together: successors have begun when it wakes.
    await asyncio.sleep(LEASE_SECONDS * 2)
    stack.resume("agent-1")


@pytest.mark.timeout(240)
async def test_one_mesh_in_which_everything_dies_in_turn_loses_and_doubles_nothing(tmp_path: Path) -> None:
    mischief = [*map(killing, PROCESSES), delete_jetstream, delete_jetstream_while_it_is_down]
    shares = [0.05 + 0.08 * index for index in range(len(mischief))]
    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, mischief, documents=800, shares=shares).go()
    assert_nothing_lost_and_nothing_doubled(outcome)


@pytest.mark.timeout(240)
async def test_a_frozen_agent_that_wakes_after_its_leases_changes_nothing(tmp_path: Path) -> None:
    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, [freeze_an_agent]).go()
    assert_nothing_lost_and_nothing_doubled(outcome)
    assert outcome.in_flight >= IN_FLIGHT
    taken_over = [job for job in outcome.log.jobs if job.lost]
    assert taken_over, "the frozen instance held leases"
    assert all(len(job.ends) == 1 and job.attempts > job.lost for job in taken_over)


@pytest.mark.long
@pytest.mark.parametrize("process", PROCESSES)
async def test_a_kill_of_any_process_loses_nothing_and_doubles_nothing(process: str, tmp_path: Path) -> None:
    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, [killing(process)]).go()
    assert_nothing_lost_and_nothing_doubled(outcome)
    assert outcome.in_flight >= IN_FLIGHT


@pytest.mark.long
@pytest.mark.parametrize("mischief", [delete_jetstream, delete_jetstream_while_it_is_down])
async def test_jetstreams_directory_deleted_is_built_anew(mischief: Mischief, tmp_path: Path) -> None:
    async with freight_mesh(tmp_path) as stack:
        outcome = await FreightRun(stack, tmp_path, [mischief]).go()
    assert_nothing_lost_and_nothing_doubled(outcome)
    assert outcome.in_flight >= IN_FLIGHT
