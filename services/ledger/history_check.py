"""Whether the jobs' histories, which lie across chains, are whole in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from typing import Final

from services.ledger.read_pool import Snapshot
from workmesh.job_order import Place
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.verify import make_fault

NOWHERE: Final = Place(0, 0, -1)

_MAX_JOBS: Final = 100


class HistoryCheck:
    """Lets the database find the jobs whose sequence numbers are not 1, 2, 3 … up to their own count."""

    def __init__(self, snapshot: Snapshot, sql: Mapping[str, str], seconds: float) -> None:
        self._snapshot = snapshot
        self._sql = sql
        self._seconds = seconds

    async def faults(self, chains: Collection[int]) -> AsyncIterator[ChainFault]:
        """Yield what is wrong with at most 100 jobs; of chains, if any are named, only what stands there."""
        statement = self._sql["broken_histories"]
        for job_id, seq, _ in await self._snapshot.fetch(statement, _MAX_JOBS, seconds=self._seconds):
            rows = await self._snapshot.fetch(self._sql["history_places"], job_id, seconds=self._seconds)
            for fault in history_faults(job_id, seq, [(row[0], Place(*row[1:])) for row in rows]):
                if not chains or fault.chain in chains:
                    yield fault


def history_faults(job_id: str, last_seq: int, places: Iterable[tuple[int, Place]]) -> Iterator[ChainFault]:
    """Yield the gaps and repeats among a job's events, given with their places in order of seq.

    A gap is placed at the event after it. What is missing at the end is placed at the last event, at chain 0
    if there is none at all.
    """
    expected = 1
    place = NOWHERE
    for seq, place in places:
        if seq < expected:
            yield _fault(place, f"job {job_id} has its event {seq} twice")
        elif seq > expected:
            yield _fault(place, f"job {job_id} lacks its {_range(expected, seq - 1)}")
        elif seq > last_seq:
            yield _fault(place, f"job {job_id} has {last_seq} events, this is number {seq}")
        expected = max(expected, seq + 1)
    if expected <= last_seq:
        yield _fault(place, f"job {job_id} lacks its {_range(expected, last_seq)}")


def _range(first: int, last: int) -> str:
    return f"event {first}" if first == last else f"events {first} to {last}"


def _fault(place: Place, text: str) -> ChainFault:
    return make_fault(place.chain, place.height, ChainFault.KIND_WRONG_EVENT, text, place.index)
