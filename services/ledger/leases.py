"""Leases: who holds a job, until when, and what is said to those who do not."""

from __future__ import annotations

from services.ledger import events
from services.ledger.items import Renew, Renewed
from services.ledger.jobs import RUNNING, TAKEN, Decision, JobRow, Rules, ended
from workmesh import errors
from workmesh.errors import MeshError, to_status
from workmesh.ledger.v1.event_pb2 import AttemptLost, Event


def holds(job: JobRow, epoch: int) -> bool:
    """Tell whether the attempt of that epoch is the one that runs; its lease may have ended."""
    return job.state == RUNNING and job.epoch == epoch


def free_at(job: JobRow, rules: Rules) -> int:
    """Return when a running job may be given to another holder (microseconds since the epoch)."""
    return job.lease_expire_micros + rules.allowance_micros


def lose(job: JobRow, now_micros: int, rules: Rules) -> tuple[JobRow, Event]:
    """Take a job from a holder that never reported; the attempt it had counts as spent.

    The caller gives the job, which is left between two states, its next one.
    """
    lost = AttemptLost(epoch=job.epoch, attempt=job.attempt, instance=job.instance)
    error = errors.aborted(
        "LEASE_LOST",
        f"the lease of attempt {job.attempt} ended without a report",
        attempt=str(job.attempt),
        instance=job.instance,
    )
    job = ended(job._replace(seq=job.seq + 1), job.state, now_micros, TAKEN, error=to_status(error))
    return job, events.of_job(job, rules.ledger, now_micros, attempt_lost=lost)


def renew(job: JobRow | None, item: Renew, now_micros: int, rules: Rules) -> Decision[Renewed | MeshError]:
    """Extend a lease that has not ended."""
    if job is None or not holds(job, item.epoch):
        return Decision(superseded(job, item.job_id, item.epoch))
    if job.lease_expire_micros <= now_micros:
        return Decision(expired(job))
    # A lease only grows: one granted by a transaction that began later keeps its later end.
    end = max(job.lease_expire_micros, now_micros + rules.lease_micros)
    job = job._replace(lease_expire_micros=end)
    return Decision(Renewed(job, now_micros), job)


def superseded(job: JobRow | None, job_id: str, epoch: int) -> MeshError:
    """Say that an attempt is over: another was granted, or it has ended already."""
    return errors.aborted(
        "STALE_EPOCH",
        f"epoch {epoch} of job {job_id} is over",
        job_id=job_id,
        epoch=str(epoch),
        current_epoch=str(0 if job is None else job.epoch),
    )


def expired(job: JobRow) -> MeshError:
    """Say that the attempt's lease has ended, though nobody else was granted the job yet."""
    return errors.aborted(
        "LEASE_EXPIRED",
        f"the lease of job {job.job_id} has ended",
        job_id=job.job_id,
        epoch=str(job.epoch),
        lease_expire_micros=str(job.lease_expire_micros),
    )
