"""Which items of a batch are plain enough to be written by one statement a kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from services.ledger.items import Apply, Begin, Commit, Create, Item, Record, Renew

Kind = TypeVar("Kind")

Placed = tuple[int, Kind]
"""An item and its place in the batch."""


@dataclass(slots=True)
class Plan:
    """A batch by kind; `careful` has, in order, what the plain statements cannot decide."""

    creates: list[Placed[Create]] = field(default_factory=list)
    begins: list[Placed[Begin]] = field(default_factory=list)
    renews: list[Placed[Renew]] = field(default_factory=list)
    records: list[Placed[Record]] = field(default_factory=list)
    commits: list[Placed[Commit]] = field(default_factory=list)
    careful: list[Placed[Item]] = field(default_factory=list)


def make_plan(items: Sequence[Item], *, plain: bool = True) -> Plan:
    """Sort a batch by kind; with `plain` false everything goes the careful way.

    Items that share a job with another item of the batch go the careful way too, where each sees what the
    one before it did.
    """
    plan = Plan()
    if not plain:
        plan.careful = list(enumerate(items))
        return plan
    shared = _shared_keys(items)
    for place, item in enumerate(items):
        if shared and not shared.isdisjoint(_keys(item)):
            plan.careful.append((place, item))
        elif isinstance(item, Create):
            plan.creates.append((place, item))
        elif isinstance(item, Begin):
            plan.begins.append((place, item))
        elif isinstance(item, Commit) and not item.writes:
            plan.commits.append((place, item))
        elif isinstance(item, Record):
            plan.records.append((place, item))
        elif isinstance(item, Renew):
            plan.renews.append((place, item))
        else:
            plan.careful.append((place, item))
    return plan


def _keys(item: Item) -> tuple[object, ...]:
    if isinstance(item, Create):
        return item.job.job_id, (item.job.client_id, item.job.request_id)
    if isinstance(item, Apply):
        return ()
    return (item.job_id,)


def _shared_keys(items: Sequence[Item]) -> set[object]:
    """Return the job ids and requests that more than one item names: mostly none."""
    keys = [key for item in items for key in _keys(item)]
    distinct = set(keys)
    if len(distinct) == len(keys):
        return set()
    seen = set[object]()
    return {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
