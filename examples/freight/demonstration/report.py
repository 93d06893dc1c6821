"""The end of a run: a table a lane from the log, what the systems saw, and the checker's verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from examples.freight.checker import Finding
from examples.freight.evidence import JobTrace, Log, Witness
from examples.freight.generator import Case

LANES: Final = {"booking": "critical", "document": "batch"}
MOST_FINDINGS: Final = 20


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane: counts, durations from submission to outcome in seconds, attempts beyond each job's first."""

    lane: str
    agent: str
    jobs: int
    succeeded: int
    failed_as_expected: int
    p50: float
    p99: float
    repeated_attempts: int


def lane_rows(cases: Sequence[Case], log: Log) -> list[LaneRow]:
    """Computes the rows of the table."""
    return [_lane_row(agent, cases, log) for agent in LANES]


def print_report(
    console: Console, cases: Sequence[Case], witness: Witness, log: Log, killed: Sequence[str], seconds: float
) -> None:
    """Prints the table and what the systems saw."""
    table = Table(title=f"{len(cases)} jobs in {seconds:.1f} s", box=SIMPLE_HEAD, collapse_padding=True)
    for name in ("lane", "agent"):
        table.add_column(name, no_wrap=True)
    for name in ("jobs", "succeeded", "failed as\nexpected", "p50 (s)", "p99 (s)", "retries"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in lane_rows(cases, log):
        counts = (row.jobs, row.succeeded, row.failed_as_expected)
        times = (f"{row.p50:.2f}", f"{row.p99:.2f}")
        table.add_row(row.lane, row.agent, *map(str, counts), *times, str(row.repeated_attempts))
    console.print(table)
    for line in summary(witness, log, killed):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def summary(witness: Witness, log: Log, killed: Sequence[str]) -> list[str]:
    """Returns the lines below the table."""
    effects = sum(map(len, witness.effects.values()))
    refused = sum(request["verdict"] != "answer" for request in witness.requests)
    replayed = sum(bool(request["replayed"]) for request in witness.requests)
    lost = sum(job.lost for job in log.jobs)
    verdict = log.verdict
    return [
        f"kills survived: {len(killed)} ({', '.join(killed)}); attempts lost and taken up again: {lost}",
        f"systems: {len(witness.requests)} requests, {refused} failed or throttled on purpose",
        f"effects: {effects}; {replayed} requests repeated under their key had none",
        f"log: {verdict.event_count} events in {verdict.block_count} blocks on {len(verdict.heads)} chains",
    ]


def print_verdict(console: Console, findings: Sequence[Finding]) -> None:
    """Prints what the checker found."""
    if not findings:
        text = "checker: every job has one outcome, every effect was made once, every chain is whole"
        console.print(text, highlight=False, soft_wrap=True)
        return
    console.print(f"checker: {len(findings)} findings", highlight=False)
    for finding in findings[:MOST_FINDINGS]:
        console.print(f"  {finding}", highlight=False, markup=False, soft_wrap=True)
    if len(findings) > MOST_FINDINGS:
        console.print(f"  … and {len(findings) - MOST_FINDINGS} more")


def _lane_row(agent: str, cases: Sequence[Case], log: Log) -> LaneRow:
    expected = {case.reference: case for case in cases if case.agent == agent}
    jobs = [job for job in log.jobs if job.reference in expected]
    seconds = [job.seconds for job in jobs if job.ends]
    cuts = quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else (seconds or [0.0]) * 99
    refused = [job for job in jobs if not expected[job.reference].succeeds]
    return LaneRow(
        lane=LANES[agent],
        agent=agent,
        jobs=len(jobs),
        succeeded=sum(_ended(job, "SUCCEEDED", "") for job in jobs),
        failed_as_expected=sum(_ended(job, "FAILED", expected[job.reference].reason) for job in refused),
        p50=cuts[49],
        p99=cuts[98],
        repeated_attempts=sum(max(0, job.attempts - 1) for job in jobs),
    )


def _ended(job: JobTrace, state: str, reason: str) -> bool:
    return [(end.state, end.reason) for end in job.ends] == [(state, reason)]
