"""The plain way: one statement writes all items of a kind; what its guards turn away is left over.

Each function answers the items that were written and returns the others, which take the careful way in the
same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Any, Final, NamedTuple

import orjson

from services.ledger import events, journal
from services.ledger.arrays import blobs, encode, ids, numbers, texts
from services.ledger.attempts import begun
from services.ledger.commits import recorded, succeeded
from services.ledger.draft import Draft, Statements
from services.ledger.items import (
    DONE,
    Begin,
    Commit,
    Create,
    Created,
    Granted,
    Outcome,
    Record,
    Renew,
    Renewed,
)
from services.ledger.jobs import JobRow, Rules, StepRow
from services.ledger.plan import Placed
from workmesh.chain import digest

_NEW_JOB: Final = (
    *(ids, texts, ids, blobs, texts, numbers, texts, numbers),
    *(texts, numbers, numbers, numbers, blobs, texts, texts),
)
_JOB_COLUMNS: Final = len(JobRow._fields)

Results = list[Outcome | None]


async def create(
    statements: Statements, placed: Sequence[Placed[Create]], draft: Draft, results: Results
) -> list[Placed[Create]]:
    """Accept new jobs."""
    ordered = sorted(placed, key=lambda each: (each[1].job.client_id, each[1].job.request_id))
    rows = await insert_jobs(statements, [(item.job.job_id, item) for _, item in ordered])
    if not rows:
        return list(placed)
    now = draft.now_micros = rows[0]["now_micros"]
    made = {row[0] for row in rows}
    rest = []
    for place, item in placed:
        job = item.job
        if job.job_id not in made:
            rest.append((place, item))
            continue
        add_created(draft, job.job_id, item, now)
        results[place] = Created(job.job_id, existing=False)
    return rest


async def insert_jobs(statements: Statements, jobs: Sequence[tuple[str, Create]]) -> Sequence[Any]:
    """Insert jobs under ids; return (job_id, now_micros) of those whose id and request are new."""
    return await statements.fetch("create", *encode(list(starmap(_new_job, jobs)), *_NEW_JOB))


def add_created(draft: Draft, job_id: str, item: Create, now_micros: int) -> None:
    """Add the first event of a job, and its input."""
    body = item.job.input
    event = events.created(job_id, item.job, digest(body), item.instance, now_micros)
    draft.add_event(event, "job_created")
    draft.add_body(job_id, "input", body)


def _new_job(job_id: str, item: Create) -> tuple[Any, ...]:
    job = item.job
    return (
        job_id,
        job.client_id,
        job.request_id,
        job.request_digest,
        job.agent,
        job.version,
        job.pool,
        job.lane,
        job.fairness_key,
        job.run_time_micros,
        job.deadline_micros,
        job.retry_policy.max_attempts,
        job.retry_policy.SerializeToString(deterministic=True),
        labels_of(item),
        job.traceparent,
    )


def labels_of(item: Create) -> str:
    """Return the labels as JSON."""
    labels = item.job.labels
    return orjson.dumps(dict(labels), option=orjson.OPT_SORT_KEYS).decode() if labels else "{}"


async def begin(
    statements: Statements, placed: Sequence[Placed[Begin]], draft: Draft, results: Results, rules: Rules
) -> list[Placed[Begin]]:
    """Grant attempts."""
    ordered = sorted(item.job_id for _, item in placed)
    by_job = {item.job_id: item for _, item in placed}
    offers = [by_job[job_id] for job_id in ordered]
    rows = await statements.fetch(
        "begin",
        *ids(ordered),
        *numbers([item.dispatch for item in offers]),
        *ids([item.lease_id for item in offers]),
        *texts([item.instance for item in offers]),
        rules.lease_micros,
    )
    found = {row[0]: row for row in rows}
    rest = []
    for place, item in placed:
        row = found.get(item.job_id)
        if row is None:
            rest.append((place, item))
            continue
        job = JobRow._make(row[:_JOB_COLUMNS])
        now = draft.now_micros = row["now_micros"]
        draft.add_event(begun(job, now), "attempt_begun")
        results[place] = Granted(job, now, row["input"] or b"")
    return rest


async def renew(
    statements: Statements, placed: Sequence[Placed[Renew]], draft: Draft, results: Results, rules: Rules
) -> list[Placed[Renew]]:
    """Extend leases; nothing of it is history."""
    refs = sorted((item.job_id, item.epoch) for _, item in placed)
    rows = await statements.fetch("renew", *encode(refs, ids, numbers), rules.lease_micros)
    found = {row[0]: row for row in rows}
    rest = []
    for place, item in placed:
        row = found.get(item.job_id)
        if row is None:
            rest.append((place, item))
            continue
        draft.now_micros = row["now_micros"]
        results[place] = Renewed(JobRow._make(row[:_JOB_COLUMNS]), draft.now_micros)
    return rest


async def record(
    statements: Statements, placed: Sequence[Placed[Record]], draft: Draft, results: Results
) -> list[Placed[Record]]:
    """Journal steps, taking them for new."""
    found = await _advance(statements, "record", [item for _, item in placed])
    rest = []
    for place, item in placed:
        row = found.get(item.job_id)
        if row is None:
            rest.append((place, item))
            continue
        rows = _steps(row, item)
        draft.now_micros = row.now_micros
        draft.add_event(recorded(row, item, rows, row.now_micros), "steps_recorded")
        draft.add_steps(rows)
        results[place] = DONE
    return rest


async def commit(
    statements: Statements, placed: Sequence[Placed[Commit]], draft: Draft, results: Results
) -> list[Placed[Commit]]:
    """End attempts well, taking their steps for new."""
    found = await _advance(statements, "commit", [item for _, item in placed])
    rest = []
    for place, item in placed:
        row = found.get(item.job_id)
        if row is None:
            rest.append((place, item))
            continue
        rows = _steps(row, item)
        draft.now_micros = row.now_micros
        draft.add_event(succeeded(row, item, rows, row.now_micros), "job_succeeded")
        draft.add_steps(rows)
        draft.add_body(item.job_id, "output", item.output)
        results[place] = DONE
    return rest


class _Advanced(NamedTuple):
    """A job whose history went on by one, in the order of the statements' columns."""

    job_id: str
    client_id: str
    agent: str
    version: int
    series: int
    seq: int
    first_ordinal: int
    traceparent: str
    now_micros: int


async def _advance(
    statements: Statements, name: str, items: Sequence[Record | Commit]
) -> dict[str, _Advanced]:
    refs = sorted((item.job_id, item.epoch, len(item.steps)) for item in items)
    rows = await statements.fetch(name, *encode(refs, ids, numbers, numbers))
    return {row[0]: _Advanced._make(row) for row in rows}


def _steps(row: _Advanced, item: Record | Commit) -> list[StepRow]:
    first, series = row.first_ordinal, row.series
    return [
        journal.step_row(item.job_id, series, first + index, item.epoch, step)
        for index, step in enumerate(item.steps)
    ]
