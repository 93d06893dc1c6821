"""State documents: the versions that a commit's writes make, or the conflict that forbids them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.ledger import events
from services.ledger.jobs import JobRow, VersionRow
from workmesh import errors
from workmesh.chain import digest
from workmesh.errors import MeshError
from workmesh.ledger.v1.event_pb2 import Event, StateWritten
from workmesh.ledger.v1.job_pb2 import StateWrite


class Key(NamedTuple):
    """Names a document."""

    client_id: str
    collection: str
    key: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """Documents that are not at the version a write expects."""

    keys: tuple[Key, ...]


def keys_of(client_id: str, writes: Sequence[StateWrite]) -> list[Key]:
    """Return the documents that the writes name, in their order."""
    return [Key(client_id, write.collection, write.key) for write in writes]


def write(
    job: JobRow, epoch: int, writes: Sequence[StateWrite], versions: Mapping[Key, int], now_micros: int
) -> list[VersionRow] | Conflict:
    """Return the new versions in the order of the writes; a document may be written more than once.

    `versions` has the current version of each document before the first write; one that is missing does
    not exist.
    """
    current = dict(versions)
    made: list[VersionRow] = []
    wrong = dict[Key, None]()
    for key, each in zip(keys_of(job.client_id, writes), writes, strict=True):
        version = current.get(key, 0)
        if each.HasField("expected_version") and each.expected_version != version:
            wrong[key] = None
        current[key] = version + 1
        made.append(VersionRow(*key, version + 1, each.body, job.job_id, epoch, now_micros))
    return Conflict(tuple(wrong)) if wrong else made


def written(
    job: JobRow, instance: str, versions: Sequence[VersionRow], now_micros: int
) -> tuple[JobRow, list[Event]]:
    """Return the job at the sequence number of the last write's event, and the events."""
    made = []
    for each in versions:
        job = job._replace(seq=job.seq + 1)
        payload = StateWritten(
            collection=each.collection,
            key=each.key,
            version=each.version,
            body_digest=digest(each.body),
            epoch=each.epoch,
        )
        made.append(events.of_job(job, events.holder(job, instance), now_micros, state_written=payload))
    return job, made


def conflict_error(conflict: Conflict) -> MeshError:
    """Say which document is not at its expected version; the first, when there are several."""
    first = conflict.keys[0]
    return errors.aborted(
        "STATE_CONFLICT",
        f"document {first.collection}/{first.key} is not at the expected version",
        collection=first.collection,
        key=first.key,
        documents=str(len(conflict.keys)),
    )
