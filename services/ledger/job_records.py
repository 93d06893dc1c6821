"""Rows of jobs, steps and state as the messages of the contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

import orjson
from google.rpc.status_pb2 import Status

from services.ledger.read_pool import Row
from workmesh.common.v1.job_pb2 import RetryPolicy
from workmesh.ledger.v1.block_pb2 import Position
from workmesh.ledger.v1.event_pb2 import Event, Routing
from workmesh.ledger.v1.job_pb2 import JobRecord, JournalStep, StateDocument
from workmesh.ledger.v1.ledger_read_service_pb2 import LiveJob, RecordedEvent

JOB_COLUMNS: Final = 25
"""Columns that every statement of jobs selects first; those after them are its own."""

_NO_LABELS: Final = "{}"


def job_record(
    row: Row,
    input: bytes | None = None,
    output: bytes | None = None,
    make: Callable[..., JobRecord] = JobRecord,
) -> JobRecord:
    """Return the job of a row with the bodies given.

    `make` may be the `add` of a list of jobs, so that nothing is copied.
    """
    (
        job_id,
        client_id,
        agent,
        version,
        pool,
        lane,
        state,
        attempt,
        series,
        epoch,
        dispatch,
        seq,
        fairness_key,
        run_time,
        deadline,
        create_time,
        update_time,
        retry_policy,
        labels,
        parent,
        traceparent,
        error,
        cancel_requested,
        instance,
        lease_expire,
    ) = row[:JOB_COLUMNS]
    return make(
        job_id=job_id,
        client_id=client_id,
        agent=agent,
        version=version,
        pool=pool,
        lane=lane,
        state=state,
        attempt=attempt,
        series=series,
        epoch=epoch,
        dispatch=dispatch,
        seq=seq,
        fairness_key=fairness_key,
        run_time_micros=run_time,
        deadline_micros=deadline,
        create_time_micros=create_time,
        update_time_micros=update_time,
        retry_policy=_policy(retry_policy),
        labels=None if labels == _NO_LABELS else orjson.loads(labels),
        parent_job_id=parent,
        traceparent=traceparent,
        input=input,
        output=output,
        error=None if error is None else Status.FromString(error),
        cancel_requested=cancel_requested,
        instance=instance,
        lease_expire_micros=lease_expire,
    )


def live_job(row: Row) -> LiveJob:
    """Return the job of a row of live_jobs."""
    job_id, client_id, state, dispatch, pool, lane, agent, version, key, run_time, deadline, since, trace = (
        row
    )
    return LiveJob(
        job_id=job_id,
        client_id=client_id,
        routing=Routing(
            dispatch=dispatch,
            pool=pool,
            lane=lane,
            agent=agent,
            version=version,
            fairness_key=key,
            run_time_micros=run_time,
            deadline_micros=deadline,
        ),
        state=state,
        runnable_time_micros=since,
        traceparent=trace,
    )


def journal_step(row: Row) -> JournalStep:
    """Return the step of a row of get_journal."""
    step, kind, name, arguments_digest, result, error, start_time, end_time = row
    return JournalStep(
        step=step,
        kind=kind,
        name=name,
        arguments_digest=arguments_digest,
        result=result,
        error=None if error is None else Status.FromString(error),
        start_time_micros=start_time,
        end_time_micros=end_time,
    )


def recorded_event(row: Row) -> RecordedEvent:
    """Return the event of a row of get_history."""
    body, chain, height, index = row
    return RecordedEvent(event=Event.FromString(body), chain=chain, height=height, index=index)


def state_document(row: Row) -> StateDocument:
    """Return the document of a row that begins with collection, key, version, body, update time and job."""
    collection, key, version, body, update_time, job_id = row[:6]
    return StateDocument(
        collection=collection,
        key=key,
        version=version,
        body=body,
        update_time_micros=update_time,
        job_id=job_id,
    )


def position(row: Row) -> Position:
    """Return the position of a row of heads."""
    timeline, chain, height, hash_ = row
    return Position(timeline=timeline, chain=chain, height=height, hash=hash_)


@lru_cache(maxsize=1024)
def _policy(data: bytes) -> RetryPolicy:
    # Policies are few and come with every job; messages copy what they are made of.
    return RetryPolicy.FromString(data)
