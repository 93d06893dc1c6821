"""The careful way: lock what a batch's items are about, let the domain decide in order, write it back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.ledger import arrays, attempts, cancels, commits, effects, failures, journal, leases
from services.ledger.arrays import blobs, flags, ids, numbers, texts
from services.ledger.documents import Conflict, Key, conflict_error, keys_of
from services.ledger.draft import Draft, Statements
from services.ledger.items import (
    Begin,
    Cancel,
    Claim,
    Commit,
    Conflicted,
    Fail,
    JobItem,
    Outcome,
    Record,
    Renew,
    Settle,
)
from services.ledger.jobs import Decision, EffectRow, JobRow, Rules, VersionRow
from services.ledger.plan import Placed
from workmesh.ledger.v1.job_pb2 import StateDocument

_MUTABLE: Final = (
    *(ids, numbers, numbers, numbers, numbers, numbers, numbers, numbers, numbers, numbers),
    *(ids, texts, numbers, numbers, flags, texts, blobs, blobs),
)
_DOCUMENT: Final = (texts, texts, texts, numbers, ids, flags)
_EFFECT: Final = (
    *(ids, numbers, texts, texts, blobs, numbers, numbers, numbers, numbers, numbers, blobs, texts),
)

Results = list[Outcome | None]
StepKey = tuple[str, int, str]


@dataclass(slots=True)
class Scene:
    """What the items of a batch see, each after the ones before it; `changed_` names what is to be stored."""

    jobs: dict[str, JobRow]
    steps: dict[StepKey, journal.Recorded] = field(default_factory=dict)
    versions: dict[Key, int] = field(default_factory=dict)
    effects: dict[StepKey, EffectRow] = field(default_factory=dict)
    changed_jobs: set[str] = field(default_factory=set)
    changed_effects: set[StepKey] = field(default_factory=set)
    written: dict[Key, VersionRow] = field(default_factory=dict)


async def decide_jobs(
    statements: Statements, placed: Sequence[Placed[JobItem]], draft: Draft, results: Results, rules: Rules
) -> None:
    """Decide items about jobs in their order and write what follows."""
    scene = await _set_scene(statements, [item for _, item in placed])
    existing = frozenset(key for key, version in scene.versions.items() if version)
    conflicts: list[tuple[int, Conflict]] = []
    for place, item in placed:
        decision = _decide(item, scene, draft.now_micros, rules)
        _note(scene, decision)
        draft.add_decision(decision)
        if isinstance(decision.outcome, Conflict):
            conflicts.append((place, decision.outcome))
        else:
            results[place] = decision.outcome
    await _store(statements, scene, existing, draft.now_micros)
    if conflicts:
        await _answer_conflicts(statements, scene, conflicts, results)


async def _set_scene(statements: Statements, items: Sequence[JobItem]) -> Scene:
    job_ids = sorted({item.job_id for item in items})
    rows = await statements.fetch("lock_jobs", *arrays.ids(job_ids))
    scene = Scene({row[0]: JobRow._make(row) for row in rows})
    # Jobs first, documents second, in every transaction: that is the order of locks.
    await _find_steps(statements, scene, items)
    await _lock_documents(statements, scene, items)
    await _find_effects(statements, scene, items)
    return scene


async def _find_steps(statements: Statements, scene: Scene, items: Iterable[JobItem]) -> None:
    keys = {
        (item.job_id, job.series, step.step)
        for item in items
        if isinstance(item, Record | Commit | Fail) and (job := scene.jobs.get(item.job_id))
        if job.step_count
        for step in item.steps
    }
    if keys:
        rows = await statements.fetch("find_steps", *arrays.encode(sorted(keys), *arrays.KEY))
        scene.steps.update({(row[0], row[1], row[2]): journal.Recorded._make(row[3:]) for row in rows})


async def _lock_documents(statements: Statements, scene: Scene, items: Iterable[JobItem]) -> None:
    keys = {
        key
        for item in items
        if isinstance(item, Commit) and item.writes and (job := scene.jobs.get(item.job_id))
        for key in keys_of(job.client_id, item.writes)
    }
    if keys:
        rows = await statements.fetch("lock_documents", *_encode_keys(sorted(keys)))
        scene.versions.update(dict.fromkeys(keys, 0))
        scene.versions.update({Key(row[0], row[1], row[2]): row[3] for row in rows})


async def _find_effects(statements: Statements, scene: Scene, items: Iterable[JobItem]) -> None:
    keys = {key for item in items if isinstance(item, Claim | Settle) if (key := _effect_key(item, scene))}
    if keys:
        rows = await statements.fetch("find_effects", *arrays.encode(sorted(keys), *arrays.KEY))
        scene.effects.update({(row[0], row[1], row[2]): EffectRow._make(row) for row in rows})


def _effect_key(item: Claim | Settle, scene: Scene) -> StepKey | None:
    if isinstance(item, Settle):
        return item.job_id, item.series, item.step
    job = scene.jobs.get(item.job_id)
    return (item.job_id, job.series, item.step) if job else None


def _decide(
    item: JobItem, scene: Scene, now_micros: int, rules: Rules
) -> Decision[Outcome] | Decision[Outcome | Conflict]:
    job = scene.jobs.get(item.job_id)
    match item:
        case Begin():
            return attempts.begin(job, item, now_micros, rules)
        case Renew():
            return leases.renew(job, item, now_micros, rules)
        case Record():
            return commits.record(job, item, scene.steps, now_micros)
        case Commit():
            return commits.commit(job, item, scene.steps, scene.versions, now_micros)
        case Fail():
            return failures.fail(job, item, scene.steps, now_micros, rules)
        case Cancel():
            return cancels.cancel(job, item, now_micros, rules)
        case Claim():
            return effects.claim(job, item, _effect(item, scene), now_micros)
        case Settle():
            return effects.settle(job, item, _effect(item, scene), now_micros)


def _effect(item: Claim | Settle, scene: Scene) -> EffectRow | None:
    key = _effect_key(item, scene)
    return scene.effects.get(key) if key else None


def _note(scene: Scene, decision: Decision[object]) -> None:
    """Let the next items see what this one did."""
    if decision.job is not None:
        scene.jobs[decision.job.job_id] = decision.job
        scene.changed_jobs.add(decision.job.job_id)
    for row in decision.steps:
        scene.steps[row.job_id, row.series, row.step] = journal.recorded(row)
    for version in decision.versions:
        key = Key(version.client_id, version.collection, version.key)
        scene.versions[key] = version.version
        scene.written[key] = version
    if (effect := decision.effect) is not None:
        key_of_effect = (effect.job_id, effect.series, effect.step)
        scene.effects[key_of_effect] = effect
        scene.changed_effects.add(key_of_effect)


async def _store(statements: Statements, scene: Scene, existing: frozenset[Key], now_micros: int) -> None:
    if scene.changed_jobs:
        changed = [_mutable(scene.jobs[job_id]) for job_id in sorted(scene.changed_jobs)]
        await statements.fetch("store_jobs", *arrays.encode(changed, *_MUTABLE))
    if scene.written:
        documents = [
            (*key, row.version, row.job_id, key in existing) for key, row in sorted(scene.written.items())
        ]
        await statements.fetch("store_documents", *arrays.encode(documents, *_DOCUMENT), now_micros)
    if scene.changed_effects:
        rows = [scene.effects[key] for key in sorted(scene.changed_effects)]
        await statements.fetch("store_effects", *arrays.encode(rows, *_EFFECT))


def _encode_keys(keys: Sequence[Key]) -> list[object]:
    return arrays.encode(keys, texts, texts, texts)


def _mutable(job: JobRow) -> tuple[object, ...]:
    return (
        job.job_id,
        job.state,
        job.attempt,
        job.series,
        job.epoch,
        job.dispatch,
        job.seq,
        job.step_count,
        job.run_time_micros,
        job.update_time_micros,
        job.lease_id,
        job.instance,
        job.lease_expire_micros,
        job.ending,
        job.cancel_requested,
        job.cancel_reason,
        job.error,
        job.fingerprint,
    )


async def _answer_conflicts(
    statements: Statements, scene: Scene, conflicts: Sequence[tuple[int, Conflict]], results: Results
) -> None:
    """Answer with the documents as they are: those of this batch from memory, the others from their table."""
    keys = sorted({key for _, conflict in conflicts for key in conflict.keys} - set(scene.written))
    documents = {key: _document(row) for key, row in scene.written.items()}
    if keys:
        rows = await statements.fetch("read_documents", *_encode_keys(keys))
        documents |= {
            Key(row[0], row[1], row[2]): StateDocument(
                collection=row[1],
                key=row[2],
                version=row[3],
                body=row[4],
                update_time_micros=row[5],
                job_id=row[6],
            )
            for row in rows
        }
    for place, conflict in conflicts:
        found = [
            documents.get(key) or StateDocument(collection=key.collection, key=key.key)
            for key in conflict.keys
        ]
        results[place] = Conflicted(conflict_error(conflict), found)


def _document(row: VersionRow) -> StateDocument:
    return StateDocument(
        collection=row.collection,
        key=row.key,
        version=row.version,
        body=row.body,
        update_time_micros=row.create_time_micros,
        job_id=row.job_id,
    )
