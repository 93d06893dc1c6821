"""Ledger records as the public contract shows them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from workmesh.gateway.v1.job_pb2 import Job
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.payload import json_to_struct

_MICROS = 1_000_000


def to_job(record: JobRecord) -> Job:
    """Return the public form of a job, with those bodies that the record carries."""
    job = Job(
        job_id=record.job_id,
        client_id=record.client_id,
        agent=record.agent,
        version=record.version,
        pool=record.pool,
        lane=record.lane,
        state=record.state,
        attempt=record.attempt,
        epoch=record.epoch,
        dispatch=record.dispatch,
        create_time=to_timestamp(record.create_time_micros),
        update_time=to_timestamp(record.update_time_micros),
        retry_policy=record.retry_policy,
        fairness_key=record.fairness_key,
        parent_job_id=record.parent_job_id,
        traceparent=record.traceparent,
        cancel_requested=record.cancel_requested,
        instance=record.instance,
        seq=record.seq,
    )
    _add_optional(job, record)
    return job


def to_completion(record: JobRecord) -> Job:
    """Return what a bulk submitter needs of a finished job: ids, state, output or error."""
    job = Job(
        job_id=record.job_id,
        client_id=record.client_id,
        agent=record.agent,
        version=record.version,
        lane=record.lane,
        state=record.state,
        attempt=record.attempt,
        seq=record.seq,
        create_time=to_timestamp(record.create_time_micros),
        update_time=to_timestamp(record.update_time_micros),
    )
    if record.output:
        json_to_struct(record.output, job.output)
    if record.HasField("error"):
        job.error.CopyFrom(record.error)
    if record.labels:
        job.labels.update(record.labels)
    return job


def to_timestamp(micros: int) -> Timestamp:
    """Return microseconds since the epoch as a Timestamp."""
    return Timestamp(seconds=micros // _MICROS, nanos=micros % _MICROS * 1_000)


def _add_optional(job: Job, record: JobRecord) -> None:
    if record.input:
        json_to_struct(record.input, job.input)
    if record.output:
        json_to_struct(record.output, job.output)
    if record.HasField("error"):
        job.error.CopyFrom(record.error)
    if record.run_time_micros:
        job.run_time.CopyFrom(to_timestamp(record.run_time_micros))
    if record.deadline_micros:
        job.deadline.CopyFrom(to_timestamp(record.deadline_micros))
    if record.labels:
        job.labels.update(record.labels)
