"""Events as the ledger writes them: who acted, at which place of a job's history, where it goes next."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from google.protobuf.message import Message

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


class Subject(Protocol):
    """A job at the place of its history that an event is to have."""

    @property
    def job_id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def client_id(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def traceparent(self) -> str: ...


def holder(job: Subject, instance: str) -> Actor:
    """Return the actor of the instance that runs the job."""
    return instance_actor(job.agent, job.version, instance)


def blank(job: Subject, actor: Actor, now_micros: int) -> Event:
    """Return an event without payload.

    Fields are set one by one here and where it counts: a message given to a constructor is copied, and
    keywords cost half as much again.
    """
    event = Event()
    event.job_id = job.job_id
    event.seq = job.seq
    event.time_micros = now_micros
    event.client_id = job.client_id
    event.actor.CopyFrom(actor)
    event.traceparent = job.traceparent
    return event


def of_job(job: Subject, actor: Actor, now_micros: int, **payload: Message) -> Event:
    """Return the event that stands at the job's current sequence number, with its one payload field."""
    event = blank(job, actor, now_micros)
    for name, message in payload.items():
        getattr(event, name).CopyFrom(message)
        # A payload without content is set nonetheless.
        getattr(event, name).SetInParent()
    return event


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
    event = Event()
    event.job_id = job_id
    event.seq = 1
    event.time_micros = now_micros
    event.client_id = job.client_id
    event.actor.CopyFrom(client_actor(job.client_id, instance))
    event.traceparent = job.traceparent
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
