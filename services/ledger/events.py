"""Events as the ledger writes them: who acted, at which place of a job's history, where it goes next."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from services.ledger.jobs import JobRow
from workmesh.ledger.v1.event_pb2 import Actor, Event, Routing
from workmesh.ledger.v1.ledger_write_service_pb2 import NewJob

TOOLHUB = "toolhub"


@lru_cache(maxsize=4096)
def instance_actor(agent: str, version: int, instance: str) -> Actor:
    """Return the actor of an instance that ran a definition; shared, never to be changed."""
    return Actor(kind=Actor.KIND_INSTANCE, id=agent, version=version, instance=instance)


@lru_cache(maxsize=4096)
def client_actor(client_id: str, instance: str) -> Actor:
    """Return the actor of a client that came through a process; shared, never to be changed."""
    return Actor(kind=Actor.KIND_CLIENT, id=client_id, instance=instance)


@lru_cache(maxsize=256)
def service_actor(service: str, instance: str, on_behalf_of: str = "") -> Actor:
    """Return the actor of a service of the mesh; shared, never to be changed."""
    return Actor(kind=Actor.KIND_SERVICE, id=service, instance=instance, on_behalf_of=on_behalf_of)


def holder(job: JobRow, instance: str) -> Actor:
    """Return the actor of the instance that runs the job."""
    return instance_actor(job.agent, job.version, instance)


def of_job(job: JobRow, actor: Actor, now_micros: int, **payload: Any) -> Event:
    """Return the event that stands at the job's current sequence number, with its one payload field."""
    return Event(
        job_id=job.job_id,
        seq=job.seq,
        time_micros=now_micros,
        client_id=job.client_id,
        actor=actor,
        traceparent=job.traceparent,
        **payload,
    )


def routing_of(job: JobRow) -> Routing:
    """Return where and when the job may run next."""
    return Routing(
        dispatch=job.dispatch,
        pool=job.pool,
        lane=job.lane,
        agent=job.agent,
        version=job.version,
        fairness_key=job.fairness_key,
        run_time_micros=job.run_time_micros,
        deadline_micros=job.deadline_micros,
    )


def created(job_id: str, job: NewJob, input_digest: bytes, instance: str, now_micros: int) -> Event:
    """Return the first event of a job."""
    event = Event(
        job_id=job_id,
        seq=1,
        time_micros=now_micros,
        client_id=job.client_id,
        actor=client_actor(job.client_id, instance),
        traceparent=job.traceparent,
    )
    # Filled in place: a message given to a constructor is copied, and this one holds several.
    payload = event.job_created
    payload.input_digest = input_digest
    payload.request_id = job.request_id
    payload.retry_policy.CopyFrom(job.retry_policy)
    if job.labels:
        payload.labels.MergeFrom(job.labels)
    routing = payload.routing
    routing.dispatch = 1
    routing.pool = job.pool
    routing.lane = job.lane
    routing.agent = job.agent
    routing.version = job.version
    routing.fairness_key = job.fairness_key
    routing.run_time_micros = job.run_time_micros
    routing.deadline_micros = job.deadline_micros
    return event
