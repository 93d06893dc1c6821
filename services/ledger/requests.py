"""Creating with care: requests that were made before, and ids that are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from services.ledger.arrays import encode, ids, texts
from services.ledger.draft import Draft, Statements
from services.ledger.items import Create, Created, Outcome
from services.ledger.plain_path import add_created, insert_jobs
from services.ledger.plan import Placed
from workmesh import errors
from workmesh.errors import MeshError
from workmesh.ids import uuid7

_ROUNDS: Final = 5

Request = tuple[str, str]
"""Client and request_id."""


async def create_jobs(
    statements: Statements,
    placed: Sequence[Placed[Create]],
    draft: Draft,
    results: list[Outcome | None],
) -> None:
    """Answer repeats with the first job, refuse reuse, accept the rest in their order.

    An id proposed by a caller that another job has is replaced by one of the ledger's. RuntimeError
    when ids and requests keep colliding, which takes an adversary or a bug.
    """
    ids = {place: item.job.job_id for place, item in placed}
    waiting = list(placed)
    for _ in range(_ROUNDS):
        known = await _find(statements, waiting)
        waiting = [each for each in waiting if not _answer(each, known, results)]
        if not waiting:
            return
        await _insert(statements, waiting, ids, draft, results)
        waiting = [each for each in waiting if results[each[0]] is None]
        ids.update({place: uuid7() for place, _ in waiting})
    raise RuntimeError("jobs could not be created under any id")


def _request(item: Create) -> Request:
    return item.job.client_id, item.job.request_id


async def _find(statements: Statements, waiting: Sequence[Placed[Create]]) -> dict[Request, Any]:
    keys = sorted({_request(item) for _, item in waiting})
    rows = await statements.fetch("find_requests", *encode(keys, texts, ids))
    return {(row[0], row[1]): row for row in rows}


def _answer(placed: Placed[Create], known: dict[Request, Any], results: list[Outcome | None]) -> bool:
    place, item = placed
    row = known.get(_request(item))
    if row is None:
        return False
    same = row["request_digest"] == item.job.request_digest
    results[place] = Created(row["job_id"], existing=True) if same else _reused(item)
    return True


async def _insert(
    statements: Statements,
    waiting: Sequence[Placed[Create]],
    ids: dict[int, str],
    draft: Draft,
    results: list[Outcome | None],
) -> None:
    """Insert the first item of each request and of each id; the others wait for the next round."""
    first: dict[Request, Placed[Create]] = {}
    taken = set[str]()
    for place, item in waiting:
        if _request(item) not in first and ids[place] not in taken:
            first[_request(item)] = (place, item)
            taken.add(ids[place])
    ordered = [first[request] for request in sorted(first)]
    rows = await insert_jobs(statements, [(ids[place], item) for place, item in ordered])
    made = {row["job_id"]: row["now_micros"] for row in rows}
    for place, item in sorted(first.values(), key=lambda each: each[0]):
        job_id = ids[place]
        if job_id in made:
            add_created(draft, job_id, item, made[job_id])
            results[place] = Created(job_id, existing=False)


def _reused(item: Create) -> MeshError:
    return errors.already_exists(
        "REQUEST_ID_REUSED",
        f"request {item.job.request_id} was made before with other content",
        request_id=item.job.request_id,
    )
