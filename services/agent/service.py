"""AgentService: what one instance tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import grpc

from services.agent.execution import Execution
from services.agent.instance import Instance
from workmesh.agent.v1 import agent_service_pb2 as pb
from workmesh.agent.v1.agent_service_pb2_grpc import AgentServiceServicer
from workmesh.clock import micros

SERVICE_NAME: Final = pb.DESCRIPTOR.services_by_name["AgentService"].full_name

Context = grpc.aio.ServicerContext[Any, Any]


class AgentService(AgentServiceServicer):
    """Answers for one instance."""

    def __init__(self, instance: Instance, drain: Callable[[], None]) -> None:
        self._instance = instance
        self._drain = drain

    async def GetInstanceStatus(
        self, request: pb.GetInstanceStatusRequest, context: Context
    ) -> pb.GetInstanceStatusResponse:
        instance = self._instance
        identity = instance.identity
        return pb.GetInstanceStatusResponse(
            instance=identity.name,
            pools=identity.pools,
            handlers=[f"{agent}@{version}" for agent, version in instance.handlers],
            slots=identity.slots,
            running_count=len(instance.executions),
            committed_count=instance.committed_count,
            failed_count=instance.failed_count,
            draining=instance.draining,
        )

    async def ListRunningJobs(
        self, request: pb.ListRunningJobsRequest, context: Context
    ) -> pb.ListRunningJobsResponse:
        return pb.ListRunningJobsResponse(jobs=map(_to_proto, self._instance.executions))

    async def DrainInstance(
        self, request: pb.DrainInstanceRequest, context: Context
    ) -> pb.DrainInstanceResponse:
        self._drain()
        return pb.DrainInstanceResponse()


def _to_proto(execution: Execution) -> pb.RunningJob:
    job = execution.job
    return pb.RunningJob(
        job_id=job.job_id,
        agent=job.agent,
        version=job.version,
        epoch=execution.lease.ref.epoch,
        attempt=job.attempt,
        step_count=execution.attempt.step_count,
        start_time_micros=micros(execution.begin_time),
    )
