"""What a grant carries besides the job: its input and the journal of its series."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger import journal
from services.ledger.arrays import encode, ids, numbers
from services.ledger.draft import Statements
from services.ledger.items import Granted, Outcome
from services.ledger.jobs import StepRow
from workmesh.ledger.v1.job_pb2 import JournalStep


async def add_bodies(
    statements: Statements, results: list[Outcome | None], without_input: Sequence[int]
) -> None:
    """Complete the grants among the results; `without_input` lists places whose input is still to be read."""
    bare = {place: each for place in without_input if isinstance(each := results[place], Granted)}
    if bare:
        rows = await statements.fetch(
            "read_inputs", *ids(sorted({each.job.job_id for each in bare.values()}))
        )
        inputs = {row["job_id"]: row["body"] for row in rows}
        for place, each in bare.items():
            results[place] = each._replace(input=inputs.get(each.job.job_id, b""))
    await _add_journals(statements, results)


async def _add_journals(statements: Statements, results: list[Outcome | None]) -> None:
    grants = {
        place: each for place, each in enumerate(results) if isinstance(each, Granted) and each.job.step_count
    }
    if not grants:
        return
    series = sorted({(each.job.job_id, each.job.series) for each in grants.values()})
    journals: dict[str, list[JournalStep]] = {}
    for row in await statements.fetch("read_journals", *encode(series, ids, numbers)):
        journals.setdefault(row["job_id"], []).append(journal.step_of(StepRow._make(row)))
    for place, each in grants.items():
        results[place] = each._replace(journal=journals.get(each.job.job_id, ()))
