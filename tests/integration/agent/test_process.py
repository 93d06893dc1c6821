"""The agent as a process: start, signals, its own service, a freeze beyond the lease."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.integration.agent.peers import Site
from workmesh.agent.v1.agent_service_pb2 import (
    DrainInstanceRequest,
    GetInstanceStatusRequest,
    ListRunningJobsRequest,
)
from workmesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.rpc.client import open_channel
from workmesh.scheduler.v1.lease_service_pb2 import Done

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[3]
HANDLERS = "tests.integration.agent.handlers"

Launch = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def launch(site: Site) -> AsyncIterator[Launch]:
    """Starts `python -m services.agent` and waits until it is connected, unless told not to."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(*, wait: bool = True, **settings: str) -> asyncio.subprocess.Process:
            environment = {
                **os.environ,
                "WORKMESH_LEDGER_ADDRESS": site.address,
                "WORKMESH_SCHEDULER_ADDRESS": site.address,
                "WORKMESH_TOOLHUB_ADDRESS": site.address,
                "WORKMESH_HANDLERS": HANDLERS,
                "WORKMESH_HEARTBEAT_SECONDS": "0.2",
                "WORKMESH_LEASE_SECONDS": str(site.ledger.lease_seconds),
                **settings,
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.agent",
                cwd=ROOT,
                env=environment,
                stderr=asyncio.subprocess.PIPE,
            )
            stack.push_async_callback(_end, process)
            if wait:
                await site.scheduler.connected()
            return process

        yield begin


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


async def running(site: Site, value: dict[str, str] | None = None) -> tuple[str, str]:
    """Offer a job that waits within a tool call and return job and lease once it does."""
    site.toolhub.tools["erp.wait"] = lambda call: None
    job = site.ledger.add("waiting", value)
    lease = site.scheduler.offer(job)[0]
    await site.toolhub.until(lambda: any(call.job_id == job.record.job_id for call in site.toolhub.calls))
    return job.record.job_id, lease


async def test_sigterm_waits_for_running_attempts_and_exits_zero(site: Site, launch: Launch) -> None:
    process = await launch()
    job_id, lease = await running(site)
    process.terminate()
    await site.scheduler.until(lambda: site.scheduler.requests[-1].heartbeat.draining)
    site.toolhub.answer_now("now")
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert site.ledger.jobs[job_id].output == {"waited": "now"}
    assert await process.wait() == 0


async def test_what_does_not_end_within_the_grace_is_handed_back_unspent(site: Site, launch: Launch) -> None:
    process = await launch(WORKMESH_AGENT_GRACE_SECONDS="0.3")
    job_id, lease = await running(site)
    process.terminate()
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    verdict = site.ledger.jobs[job_id].verdict
    assert verdict is not None
    assert verdict.verdict == FailAttempt.VERDICT_RETURN
    # What the handler had finished before its call was journaled and stays.
    assert list(site.ledger.jobs[job_id].journal) == ["1"]
    assert await process.wait() == 0


async def test_a_scheduler_that_asks_to_drain_ends_the_process(site: Site, launch: Launch) -> None:
    process = await launch()
    site.scheduler.ask_to_drain()
    assert await process.wait() == 0
    assert site.scheduler.requests[-1].heartbeat.draining


async def test_an_instance_tells_what_it_does_and_can_be_told_to_drain(site: Site, launch: Launch) -> None:
    process = await launch(WORKMESH_AGENT_INSTANCE="agent-7", WORKMESH_AGENT_GRACE_SECONDS="0.3")
    job_id, _ = await running(site)
    hello = next(each.hello for each in site.scheduler.requests if each.HasField("hello"))
    assert hello.instance == "agent-7"
    async with open_channel(hello.address) as channel:
        stub = AgentServiceStub(channel)
        status = await stub.GetInstanceStatus(GetInstanceStatusRequest(), timeout=5)
        assert (status.instance, status.slots, status.running_count) == ("agent-7", 16, 1)
        assert "waiting@1" in status.handlers
        (job,) = (await stub.ListRunningJobs(ListRunningJobsRequest(), timeout=5)).jobs
        assert (job.job_id, job.agent, job.epoch, job.attempt, job.step_count) == (job_id, "waiting", 1, 1, 1)
        await stub.DrainInstance(DrainInstanceRequest(), timeout=5)
        assert await process.wait() == 0


async def test_a_drain_asked_for_twice_and_a_signal_still_let_attempts_end(
    site: Site, launch: Launch
) -> None:
    process = await launch()
    job_id, lease = await running(site)
    hello = next(each.hello for each in site.scheduler.requests if each.HasField("hello"))
    async with open_channel(hello.address) as channel:
        stub = AgentServiceStub(channel)
        await stub.DrainInstance(DrainInstanceRequest(), timeout=5)
        await stub.DrainInstance(DrainInstanceRequest(), timeout=5)
        assert (await stub.GetInstanceStatus(GetInstanceStatusRequest(), timeout=5)).draining
    process.terminate()
    late = site.scheduler.offer(site.ledger.add("quick"))[0]
    assert (await site.scheduler.done_of(late)).outcome == Done.OUTCOME_UNKNOWN
    site.toolhub.answer_now("now")
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_REPORTED
    assert site.ledger.jobs[job_id].output == {"waited": "now"}
    assert await process.wait() == 0


async def test_figures_are_served_to_prometheus(site: Site, launch: Launch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    await launch(WORKMESH_AGENT_METRICS_PORT=str(number))
    job = site.ledger.add("quick")
    await site.scheduler.done_of(site.scheduler.offer(job)[0])
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{number}/metrics") as page:
        text = await page.text()
    assert 'workmesh_agent_attempts_total{agent="quick",outcome="committed"} 1.0' in text
    assert 'workmesh_agent_attempt_seconds_count{agent="quick"} 1.0' in text
    assert "workmesh_agent_configured_slots 16.0" in text
    assert 'workmesh_agent_batched_items_total{batcher="commit"} 1.0' in text


async def test_a_frozen_instance_finds_its_leases_over_and_has_no_effect(site: Site, launch: Launch) -> None:
    site.ledger.lease_seconds = 1.0
    process = await launch(WORKMESH_LEASE_SECONDS="1.0")
    job_id, lease = await running(site)
    process.send_signal(signal.SIGSTOP)
    # The call's answer and the end of the lease both wait for the process when it wakes up.
    site.toolhub.answer_now("again")
    await asyncio.sleep(1.5)
    site.ledger.jobs[job_id].record.epoch += 1
    process.send_signal(signal.SIGCONT)
    assert (await site.scheduler.done_of(lease)).outcome == Done.OUTCOME_UNKNOWN
    assert site.ledger.jobs[job_id].output is None
    assert "CommitAttempts" not in site.ledger.calls
    assert len(site.toolhub.calls) == 1
    quick = site.ledger.add("quick")
    assert (await site.scheduler.done_of(site.scheduler.offer(quick)[0])).outcome == Done.OUTCOME_REPORTED


async def test_handlers_that_cannot_be_loaded_are_named_and_end_the_process(
    site: Site, launch: Launch
) -> None:
    process = await launch(wait=False, WORKMESH_HANDLERS="no.such.module")
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"module no.such.module cannot be imported" in errors


async def test_an_instance_waits_for_the_ledger(site: Site, launch: Launch) -> None:
    await site.stop()
    process = await launch(wait=False)
    assert process.stderr is not None
    async for line in process.stderr:
        if b"ledger_awaited" in line:
            break
    await site.start()
    await site.scheduler.connected()
    job = site.ledger.add("quick")
    assert (await site.scheduler.done_of(site.scheduler.offer(job)[0])).outcome == Done.OUTCOME_REPORTED
