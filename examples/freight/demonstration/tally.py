"""Counts of a run while it goes on, a lane each."""

from __future__ import annotations

from dataclasses import dataclass

from examples.freight.evidence import failure_reason
from examples.freight.generator import Case
from workmesh.common.v1.job_pb2 import JOB_STATE_FAILED, JOB_STATE_SUCCEEDED
from workmesh.gateway.v1.job_pb2 import Job


@dataclass(slots=True)
class Tally:
    """How the jobs of one lane stand."""

    lane: str
    total: int
    submitted: int = 0
    succeeded: int = 0
    failed_as_expected: int = 0
    unexpected: int = 0

    @property
    def ended(self) -> int:
        return self.succeeded + self.failed_as_expected + self.unexpected

    @property
    def share(self) -> float:
        """Share of the lane's jobs that have ended."""
        return self.ended / self.total

    def enter(self, case: Case, job: Job) -> bool:
        """Counts an ended job; returns whether it ended as its case expects."""
        if case.succeeds and job.state == JOB_STATE_SUCCEEDED:
            self.succeeded += 1
        elif not case.succeeds and _failed_with(job, case.reason):
            self.failed_as_expected += 1
        else:
            self.unexpected += 1
            return False
        return True


def _failed_with(job: Job, reason: str) -> bool:
    return job.state == JOB_STATE_FAILED and failure_reason(job.error.details) == reason
