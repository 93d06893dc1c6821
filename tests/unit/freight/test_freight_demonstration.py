from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from rich.console import Console

from examples.freight.demonstration.progress import Display
from examples.freight.demonstration.run import Run
from examples.freight.demonstration.sandbox import SandboxFailed, run_sandbox
from examples.freight.demonstration.scenario import KILL_SHARES, Scenario, Settings, plan, submission
from examples.freight.demonstration.tally import Tally
from examples.freight.generator import Case
from workmesh.common.v1.job_pb2 import JOB_STATE_DEAD_LETTERED, JOB_STATE_FAILED, JOB_STATE_SUCCEEDED
from workmesh.gateway.v1.job_pb2 import Job


def end(case: Case) -> Job:
    """The end that a case must have."""
    if case.succeeds:
        return Job(state=JOB_STATE_SUCCEEDED)
    job = Job(state=JOB_STATE_FAILED)
    job.error.details.add().Pack(ErrorInfo(reason="BUSINESS_FAILURE", metadata={"failure": case.reason}))
    return job


def test_the_plan_follows_from_the_seed_alone() -> None:
    assert plan(Settings(40, 3)) == plan(Settings(40, 3))
    assert plan(Settings(40, 3)).kills != plan(Settings(40, 4)).kills


def test_a_tenth_as_many_bookings_come_while_documents_are_queued() -> None:
    scenario = plan(Settings(400, 1))
    assert (len(scenario.documents), len(scenario.bookings)) == (400, 40)
    assert list(scenario.booking_shares) == sorted(scenario.booking_shares)
    assert 0 < scenario.booking_shares[0] < scenario.booking_shares[-1] < 0.7


def test_agents_and_the_scheduler_are_killed_at_each_share() -> None:
    kills = plan(Settings()).kills
    assert tuple(kill.share for kill in kills) == KILL_SHARES
    assert all(kill.processes[-1] == "scheduler" and len(set(kill.processes)) == 3 for kill in kills)


def test_request_ids_are_uuids_that_follow_from_seed_and_case() -> None:
    cases = plan(Settings(100, 1)).cases
    ids = [submission(case, 1).request_id for case in cases]
    assert ids == [submission(case, 1).request_id for case in cases]
    assert len(set(ids)) == len(cases)
    assert all(uuid.UUID(each).version == 4 for each in ids)
    assert submission(cases[0], 2).request_id != ids[0]


def test_a_job_carries_its_reference_as_a_label() -> None:
    case = plan(Settings(8, 1)).documents[0]
    job = submission(case, 1)
    assert (job.agent, dict(job.labels)) == ("document", {"reference": case.reference})
    assert job.input["documentReference"] == case.reference


@pytest.mark.parametrize("environ", [{"N": "many"}, {"N": "0"}, {"N": "1000000"}, {"SEED": "x"}])
def test_nonsense_in_the_environment_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"N is|SEED is"):
        Settings.from_environment(environ)


def test_the_environment_sets_documents_and_seed() -> None:
    assert Settings.from_environment({"N": "5000", "SEED": "9"}) == Settings(5000, 9)
    assert Settings.from_environment({}) == Settings(400, 1)


def test_a_tally_tells_expected_from_unexpected_ends() -> None:
    cases = plan(Settings(100, 1)).documents
    good = next(case for case in cases if case.succeeds)
    faulty = next(case for case in cases if not case.succeeds)
    tally = Tally("batch", 4)
    assert tally.enter(good, end(good))
    assert tally.enter(faulty, end(faulty))
    assert not tally.enter(good, Job(state=JOB_STATE_DEAD_LETTERED))
    assert not tally.enter(faulty, end(good))
    assert (tally.succeeded, tally.failed_as_expected, tally.unexpected) == (1, 1, 2)


class Stream:
    """Stands where the bulk call stands, so that a test decides when jobs end."""

    def __init__(self) -> None:
        self.references: list[str] = []
        self.finished = False

    def submit(self, jobs: Sequence[Any]) -> None:
        self.references += [job.labels["reference"] for job in jobs]

    def finish(self) -> None:
        self.finished = True


class Mesh:
    """Remembers the streams that were opened and what was killed."""

    def __init__(self) -> None:
        self.opened: list[tuple[Stream, Callable[[Any, Job], None]]] = []
        self.killed: list[str] = []

    def stream(self, capacity: int, on_end: Callable[[Any, Job], None]) -> Any:
        self.opened.append((Stream(), on_end))
        return self.opened[-1][0]

    def kill(self, process: str) -> int:
        self.killed.append(process)
        return 4711


def started(scenario: Scenario, display: Display) -> tuple[Run, Mesh]:
    mesh = Mesh()
    return Run(scenario, 1, mesh, display.follow), mesh


def test_bookings_come_and_processes_die_as_documents_end() -> None:
    scenario = plan(Settings(100, 1))
    output = io.StringIO()
    run, mesh = started(scenario, Display(Console(file=output, width=200)))
    (_, document_ended), (bookings, booking_ended) = mesh.opened
    submitted_at: list[int] = []
    for number, case in enumerate(scenario.documents, start=1):
        document_ended(submission(case, 1), end(case))
        submitted_at += [number] * (len(bookings.references) - len(submitted_at))
    for case in scenario.bookings:
        booking_ended(submission(case, 1), end(case))
    assert bookings.references == [case.reference for case in scenario.bookings]
    assert bookings.finished
    assert submitted_at[0] == 5
    assert submitted_at == sorted(set(submitted_at))
    assert submitted_at[-1] < 65
    assert mesh.killed == [process for kill in scenario.kills for process in kill.processes] == run.killed
    assert (run.documents.ended, run.bookings.ended, run.documents.unexpected) == (100, 10, 0)
    assert "10% done: kill -9 agent-" in output.getvalue()


def test_without_a_terminal_progress_is_plain_lines_and_the_end_is_always_shown() -> None:
    output = io.StringIO()
    times = iter([0.0, 0.5, 1.0, 2.5, 2.5, 2.5, 2.6])
    display = Display(Console(file=output, width=200), clock=lambda: next(times))
    tally = Tally("batch", 3)
    with display.follow((tally,)):
        for _ in range(3):
            tally.succeeded += 1
            display.advance()
    lines = output.getvalue().splitlines()
    assert lines[-1].endswith("batch 3/3 (3 ok, 0 refused as expected)")
    assert "\x1b" not in output.getvalue()


def test_in_a_terminal_bars_are_drawn() -> None:
    output = io.StringIO()
    tally = Tally("critical", 2)
    with Display(Console(file=output, force_terminal=True, width=120)).follow((tally,)) as display:
        tally.succeeded = 2
        display.advance()
    assert "critical" in output.getvalue()
    assert "2/2" in output.getvalue()


def test_random_kills_never_take_all_agents_at_once() -> None:
    random = Random(5)
    for seed in random.sample(range(10_000), 20):
        for kill in plan(Settings(4, seed)).kills:
            assert len([process for process in kill.processes if process.startswith("agent-")]) == 2


async def test_the_sandbox_serves_inside_the_block_and_is_gone_after_it(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as session:
        async with run_sandbox(tmp_path / "record", tmp_path / "log", seed=1, latency_scale=0.0) as url:
            answer = await (await session.get(f"{url}/admin/systems")).json()
            assert answer["systems"]["erp"]["misbehaviour"]["error_rate"] == 0.02
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(f"{url}/admin/health")


async def test_a_sandbox_that_cannot_start_says_where_its_log_is(tmp_path: Path) -> None:
    (tmp_path / "record").write_text("in the way")
    with pytest.raises(SandboxFailed, match=str(tmp_path / "log")):
        async with run_sandbox(tmp_path / "record", tmp_path / "log", seed=1):
            pass
    assert "FileExistsError" in (tmp_path / "log").read_text()
