"""The two independent accounts of a run: what the systems recorded, and what the mesh's exported log says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from examples.freight.sandbox.record import EFFECTS, REQUESTS, read_lines
from workmesh.export import ExportDamaged, read_export
from workmesh.ledger.v1.event_pb2 import Event
from workmesh.verify import Verdict, verify_export

#: Label under which a job carries the reference of its booking or document.
REFERENCE_LABEL: Final = "reference"

_TERMINAL: Final = {
    "job_succeeded": "SUCCEEDED",
    "job_failed": "FAILED",
    "job_cancelled": "CANCELLED",
    "job_dead_lettered": "DEAD_LETTERED",
}


@dataclass(frozen=True, slots=True)
class Witness:
    """The sandbox's record: effects by (kind, reference), and all requests in order."""

    effects: dict[tuple[str, str], list[dict[str, Any]]]
    requests: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class End:
    """A terminal event. `reason` is the handler's own code of a business failure, else the error's reason."""

    state: str
    reason: str
    time_micros: int


@dataclass(slots=True)
class JobTrace:
    """One job as the log tells it."""

    job_id: str
    agent: str = ""
    reference: str = ""
    created_micros: int = 0
    attempts: int = 0
    lost: int = 0
    ends: list[End] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Time from submission to the first terminal event."""
        return (self.ends[0].time_micros - self.created_micros) / 1_000_000 if self.ends else float("inf")


@dataclass(frozen=True, slots=True)
class Log:
    """An exported log: what verifying it proved, and its jobs."""

    verdict: Verdict
    jobs: list[JobTrace]


def read_witness(directory: Path) -> Witness:
    """Reads a sandbox's record directory."""
    effects: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for effect in read_lines(directory / EFFECTS):
        effects[effect["kind"], effect["reference"]].append(effect)
    return Witness(dict(effects), read_lines(directory / REQUESTS))


def read_log(path: Path) -> Log:
    """Verifies an export, then reads as many jobs from it as can be read."""
    verdict = verify_export(read_export(path))
    jobs: dict[str, JobTrace] = {}
    for event in _events(path):
        if event.job_id:
            _enter(jobs.setdefault(event.job_id, JobTrace(event.job_id)), event)
    return Log(verdict, sorted(jobs.values(), key=lambda job: (job.created_micros, job.job_id)))


def _events(path: Path) -> Iterator[Event]:
    try:
        for record in read_export(path):
            yield from map(Event.FromString, record.block.events)
    except ExportDamaged:
        return  # the verdict has it


def _enter(job: JobTrace, event: Event) -> None:
    kind = event.WhichOneof("payload") or ""
    if kind == "job_created":
        job.agent = event.job_created.routing.agent
        job.reference = event.job_created.labels[REFERENCE_LABEL]
        job.created_micros = event.time_micros
    elif kind == "attempt_begun":
        job.attempts += 1
    elif kind == "attempt_lost":
        job.lost += 1
    elif kind in _TERMINAL:
        error = getattr(getattr(event, kind), "error", Status())
        job.ends.append(End(_TERMINAL[kind], failure_reason(error.details), event.time_micros))


def failure_reason(details: Iterable[Any]) -> str:
    """Returns the reason in a status's ErrorInfo: the handler's own code where it declared the failure."""
    info = ErrorInfo()
    for detail in details:
        if detail.Unpack(info):
            return info.metadata.get("failure", "") or info.reason
    return ""
