"""A random course of a few dozen jobs, the same each time, and what it leaves behind."""

from __future__ import annotations

import random
from typing import Any

from services.ledger.writer import Writer
from tests.integration.ledger.databases import Databases
from tests.integration.ledger.harness import (
    CarefulWriter,
    Ledger,
    new_job,
    reason,
    state,
    step,
)
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import Event

JOBS = 40
# Nothing ends by itself while the course runs: only `age` lets time go by.
HOUR = 3_600.0
ROUNDS = 12

Answer = tuple[Any, ...]


async def run_course(databases: Databases, *, careful: bool) -> tuple[list[Answer], list[Answer]]:
    """Run it on a fresh database; return what each call answered and each job's history, times left out."""
    database = await databases.create()
    maker = CarefulWriter if careful else Writer
    async with Ledger(databases, database, writers=1, make_writer=maker, lease=HOUR) as ledger:
        await ledger.define(tools=["erp.post_order"])
        answers = await _play(ledger, random.Random(7))
        await ledger.verify()
        histories = await _histories(ledger)
    await databases.drop(database)
    return answers, histories


def _id(kind: int, number: int) -> str:
    return f"00000000-0000-7000-8{kind:03x}-{number:012x}"


async def _play(ledger: Ledger, draws: random.Random) -> list[Answer]:
    jobs = [new_job(job_id=_id(0, each), request_id=_id(1, each)) for each in range(JOBS)]
    answers: list[Answer] = [tuple(each.job_id for each in await ledger.create(*jobs))]
    for number in range(ROUNDS):
        chosen = draws.sample(range(JOBS), 20)
        rows = {each: await ledger.row(_id(0, each)) for each in chosen}
        offers = [
            pb.BeginAttempt(
                job_id=_id(0, each), dispatch=rows[each]["dispatch"], lease_id=_id(2, number * JOBS + each)
            )
            for each in chosen
        ]
        begun = await ledger.call("BeginAttempts", attempts=offers, instance="agent-1")
        answers += [_said(each) for each in begun.results]
        answers += await _end_some(
            ledger, draws, [each.grant.job for each in begun.results if each.HasField("grant")]
        )
        for each in draws.sample(range(JOBS), 8):
            await ledger.age(_id(0, each), 2 * HOUR)
    return answers


async def _end_some(ledger: Ledger, draws: random.Random, jobs: list[Any]) -> list[Answer]:
    answers: list[Answer] = []
    recorded = [
        pb.RecordSteps(attempt=_ref(job), steps=[step(f"{job.attempt}.{draws.randrange(2)}")])
        for job in jobs
        if draws.random() < 0.7
    ]
    if recorded:
        response = await ledger.call("RecordSteps", attempts=recorded, instance="agent-1")
        answers += [(reason(each.status),) for each in response.results]
    commits = [
        pb.CommitAttempt(
            attempt=_ref(job),
            output=b"{}",
            steps=[step(f"{job.attempt}.{draws.randrange(3)}", result=draws.randrange(2))],
            state_writes=[state(f"K{draws.randrange(4)}", 1)] if draws.random() < 0.3 else [],
        )
        for job in jobs
        if draws.random() < 0.3
    ]
    if commits:
        response = await ledger.call("CommitAttempts", attempts=commits, instance="agent-1")
        answers += [(reason(each.status),) for each in response.results]
    for job in jobs:
        if draws.random() < 0.3:
            answers.append((reason((await ledger.fail(_ref(job), retry_after_micros=3_600_000_000)).status),))
        if draws.random() < 0.1:
            answers.append((reason((await ledger.cancel(job.job_id)).status),))
    return answers


def _ref(job: Any) -> pb.AttemptRef:
    return pb.AttemptRef(job_id=job.job_id, epoch=job.epoch)


def _said(result: pb.BeginAttemptResult) -> Answer:
    if not result.HasField("grant"):
        return ("refused", result.refusal.reason)
    job = result.grant.job
    journal = tuple(each.step for each in result.grant.journal)
    return ("granted", job.job_id, job.epoch, job.attempt, job.seq, job.input, journal)


async def _histories(ledger: Ledger) -> list[Answer]:
    rows = await ledger.sql("select body from events where job_id is not null order by job_id, seq")
    found: list[Answer] = []
    for row in rows:
        event = Event.FromString(row["body"])
        event.ClearField("time_micros")
        if event.HasField("attempt_begun"):
            event.attempt_begun.ClearField("lease_expire_micros")
        if event.HasField("attempt_failed"):
            event.attempt_failed.routing.ClearField("run_time_micros")
        found.append((event.SerializeToString(deterministic=True),))
    return found
