"""The benchmark's client: jobs of one kind, submitted in bulk or singly through Envoy."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from workmesh.common.v1.job_pb2 import JOB_STATE_SUCCEEDED, Lane
from workmesh.gateway.v1 import job_service_pb2 as pb
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceStub
from workmesh.payload import json_to_struct
from workmesh.rpc.client import open_stream_channel

if TYPE_CHECKING:
    from workmesh.gateway.v1.job_service_pb2_grpc import JobServiceAsyncStub

CALL_SECONDS = 30.0

DOCUMENT: dict[str, Any] = {
    "shipment": "SHP-2026-00081723",
    "carrier": "Northern Star Line",
    "origin": "DEHAM Hamburg, container terminal Altenwerder",
    "destination": "USNYC New York, Maher terminal",
    "priority": 2,
    "weight_kg": 18234.5,
    "hazardous": False,
    "customer": {
        "id": "C-10042",
        "name": "Nordwind Logistik",
        "tier": "gold",
        "contact": "ops@nordwind.example",
    },
    "items": [
        {"sku": "A-100-XL-22", "quantity": 12, "tariff": "8471.30"},
        {"sku": "B-220-SM-07", "quantity": 40, "tariff": "8473.30"},
    ],
    "tags": ["reefer", "urgent", "insured"],
    "remark": "The vessel is delayed by weather in the channel. The customer asks to hear of each change of"
    " the estimated arrival by more than two hours, and to have the rail link through Rotterdam compared"
    " before the new booking is confirmed with the terminal operator. Temperature log at handover.",
}


_TEMPLATE = orjson.dumps({**DOCUMENT, "reference": "@reference@"})


@dataclass
class Tally:
    """Jobs that ended so far."""

    succeeded: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)


class BenchClient:
    """One client of the mesh."""

    def __init__(self, edge_address: str, token: str) -> None:
        self._channel = open_stream_channel(edge_address)
        self._jobs: JobServiceAsyncStub = JobServiceStub(self._channel)
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def close(self) -> None:
        """Leave."""
        await self._channel.close()

    def submission(self, lane: Lane.ValueType = Lane.LANE_UNSPECIFIED) -> JobSubmission:
        """Return a new benchmark job."""
        job = JobSubmission(request_id=str(uuid.uuid4()), agent="bench", lane=lane)
        json_to_struct(_TEMPLATE.replace(b"@reference@", job.request_id.encode()), job.input)
        return job

    async def submit(self, lane: Lane.ValueType = Lane.LANE_UNSPECIFIED) -> str:
        """Submit one job and return its id."""
        request = pb.SubmitJobRequest(job=self.submission(lane))
        return (await self._jobs.SubmitJob(request, metadata=self._metadata, timeout=CALL_SECONDS)).job_id

    async def submit_and_watch(self, lane: Lane.ValueType = Lane.LANE_UNSPECIFIED) -> float:
        """Submit one job, watch it to its end and return the seconds that took."""
        start = time.perf_counter()
        watched = self._jobs.WatchJob(
            pb.WatchJobRequest(job_id=await self.submit(lane)), metadata=self._metadata, timeout=CALL_SECONDS
        )
        state = 0
        async for response in watched:
            state = response.job.state or state
        if state != JOB_STATE_SUCCEEDED:
            raise RuntimeError(f"the job ended in state {state}")
        return time.perf_counter() - start

    async def stream(self, window: int, per_message: int, tally: Tally, stop: asyncio.Event) -> None:
        """Keep `window` jobs in flight on one StreamJobs call until told to stop, then wait for the last."""
        room = asyncio.Semaphore(window // per_message)
        ended = 0

        async def requests() -> AsyncIterator[pb.StreamJobsRequest]:
            while not stop.is_set():
                await room.acquire()
                yield pb.StreamJobsRequest(
                    jobs=[self.submission() for _ in range(per_message)], completions=True, with_output=True
                )

        async for response in self._jobs.StreamJobs(requests(), metadata=self._metadata):
            for result in response.results:
                if result.status.code:
                    tally.failed += 1
                    tally.failures.append(result.status.message)
            for job in response.completions:
                if job.state == JOB_STATE_SUCCEEDED and job.output.fields["approved"].bool_value:
                    tally.succeeded += 1
                else:
                    tally.failed += 1
                    tally.failures.append(job.error.message)
            before, ended = ended // per_message, ended + len(response.completions)
            for _ in range(ended // per_message - before):
                room.release()
