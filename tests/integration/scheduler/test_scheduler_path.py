"""Jobs from the log to instances and back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.integration.scheduler.conftest import StartScheduler
from tests.integration.scheduler.instances import TestInstance
from tests.integration.scheduler.scripted_ledger import ScriptedLedger
from workmesh.common.v1.job_pb2 import LANE_STANDARD
from workmesh.ledger.v1.event_pb2 import Routing

Join = Callable[..., Awaitable[TestInstance]]


def routing(lane: int = LANE_STANDARD, agent: str = "worker", pool: str = "default") -> Routing:
    return Routing(pool=pool, lane=lane, agent=agent, version=1, fairness_key="tester")


async def test_a_created_job_is_offered_and_acknowledged_when_done(
    ledger: ScriptedLedger, start_scheduler: StartScheduler, join: Join
) -> None:
    scheduler = await start_scheduler()
    instance = await join(scheduler)
    (job_id,) = ledger.create(routing())
    assert await instance.wait_finished(1) == [job_id]
