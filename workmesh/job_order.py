"""Whether every job's history is whole: sequence numbers from 1, without gaps or repeats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event stands in the log."""

    chain: int
    height: int
    index: int


class JobOrder:
    """Takes the events of jobs in any order; one job's may lie on several chains.

    Memory: an entry a job, and one an event whose predecessor has not come yet.
    """

    def __init__(self) -> None:
        self._whole: dict[str, int] = {}
        self._waiting: dict[tuple[str, int], Place] = {}

    def enter(self, job_id: str, seq: int, place: Place) -> str | None:
        """Enter an event and return what is wrong with it: its number was there before."""
        whole = self._whole.get(job_id, 0)
        if seq <= whole or (job_id, seq) in self._waiting:
            return f"job {job_id} has its event {seq} twice"
        if seq > whole + 1:
            self._waiting[job_id, seq] = place
            return None
        while self._waiting and self._waiting.pop((job_id, seq + 1), None) is not None:
            seq += 1
        self._whole[job_id] = seq
        return None

    def gaps(self) -> Iterator[tuple[Place, str]]:
        """Yield, for each gap, the place of the event after it and what is missing."""
        last_job, last_seq = "", 0
        for (job_id, seq), place in sorted(self._waiting.items()):
            before = last_seq if job_id == last_job else self._whole.get(job_id, 0)
            if seq > before + 1:
                missing = f"event {seq - 1}" if seq == before + 2 else f"events {before + 1} to {seq - 1}"
                yield place, f"job {job_id} lacks its {missing}"
            last_job, last_seq = job_id, seq
