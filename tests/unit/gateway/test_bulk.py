"""A bulk call when its surroundings fail."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence

import pytest

from services.gateway.bulk import MOST_JOBS, BulkCall
from services.gateway.definitions import Definitions
from services.gateway.identity import Caller
from services.gateway.intake import Intake
from services.gateway.ledger import Ledger
from services.gateway.watches import Watches
from workmesh import errors
from workmesh.clock import ManualClock
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.errors import MeshError
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.gateway.v1.job_service_pb2 import StreamJobsRequest
from workmesh.ledger.v1.ledger_write_service_pb2 import CreateJobResult, NewJob


class AbsentLedger(Ledger):
    """Knows one definition and takes no jobs."""

    def __init__(self) -> None:
        """Connect to nothing."""

    async def get_definition(self, agent: str, version: int) -> AgentDefinition | None:
        return AgentDefinition(agent=agent, version=1)

    async def create_jobs(self, jobs: Sequence[NewJob]) -> list[CreateJobResult]:
        raise errors.unavailable("DEPENDENCY_DOWN", "the ledger is away", retry_after=1.0)


def call() -> BulkCall:
    ledger, clock = AbsentLedger(), ManualClock()
    intake = Intake(ledger, Definitions(ledger, clock, 1.0), clock)
    return BulkCall(Caller("freight", frozenset()), intake, ledger, Watches(10), most_open=10)


def job() -> JobSubmission:
    return JobSubmission(request_id=str(uuid.uuid4()), agent="booking")


async def requests(*jobs: JobSubmission) -> AsyncIterator[StreamJobsRequest]:
    yield StreamJobsRequest(jobs=jobs, completions=True)


async def test_a_ledger_that_is_away_refuses_each_job_and_the_call_ends_well() -> None:
    results = [result async for response in call().run(requests(job(), job())) for result in response.results]
    refusals = [errors.from_status(result.status) for result in results]
    assert [(each.code.name, each.reason) for each in refusals] == [("UNAVAILABLE", "DEPENDENCY_DOWN")] * 2


async def test_a_message_with_too_many_jobs_ends_the_call_with_its_own_error() -> None:
    responses = call().run(requests(*(job() for _ in range(MOST_JOBS + 1))))
    with pytest.raises(MeshError, match="INVALID_ARGUMENT"):
        await anext(responses)
