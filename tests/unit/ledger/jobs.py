"""Rows to decide about."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from services.ledger import jobs
from services.ledger.events import service_actor
from services.ledger.jobs import JobRow, Rules
from workmesh.common.v1.job_pb2 import LANE_STANDARD, RetryPolicy

NOW = 1_800_000_000_000_000
LEASE = 10_000_000
ALLOWANCE = 1_000_000
RULES = Rules(LEASE, ALLOWANCE, service_actor("ledger", "ledger-1"), lambda: 0.5)
POLICY = RetryPolicy(
    max_attempts=3, initial_delay=Duration(seconds=1), multiplier=2.0, max_delay=Duration(seconds=60)
)
JOB_ID = "01890000-0000-7000-8000-000000000001"
LEASE_ID = "01890000-0000-7000-8000-0000000000aa"


def job(**fields: Any) -> JobRow:
    """Return a queued job; fields replace what it has."""
    values: dict[str, Any] = {
        "job_id": JOB_ID,
        "client_id": "acme",
        "agent": "booking",
        "version": 1,
        "pool": "default",
        "lane": LANE_STANDARD,
        "fairness_key": "acme",
        "state": jobs.QUEUED,
        "attempt": 0,
        "series": 1,
        "epoch": 0,
        "dispatch": 1,
        "seq": 1,
        "step_count": 0,
        "run_time_micros": 0,
        "deadline_micros": 0,
        "create_time_micros": NOW - 1_000,
        "update_time_micros": NOW - 1_000,
        "max_attempts": POLICY.max_attempts,
        "retry_policy": POLICY.SerializeToString(),
        "labels": "{}",
        "parent_job_id": None,
        "traceparent": "",
        "lease_id": None,
        "instance": "",
        "lease_expire_micros": 0,
        "ending": jobs.OPEN,
        "cancel_requested": False,
        "cancel_reason": "",
        "error": None,
        "fingerprint": None,
    }
    return JobRow(**{**values, **fields})


def running(**fields: Any) -> JobRow:
    """Return a job whose lease has half its time left; fields replace what it has."""
    held: dict[str, Any] = {
        "state": jobs.RUNNING,
        "attempt": 1,
        "epoch": 1,
        "seq": 2,
        "lease_id": LEASE_ID,
        "instance": "agent-1",
        "lease_expire_micros": NOW + LEASE // 2,
    }
    return job(**{**held, **fields})
