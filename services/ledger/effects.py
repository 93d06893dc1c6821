"""Unsafe effects: claimed before the call, settled after it, never fired twice on one claim."""

from __future__ import annotations

from typing import Final

from services.ledger import events
from services.ledger.items import DONE, Claim, Claimed, Done, Settle
from services.ledger.jobs import Decision, EffectRow, JobRow
from services.ledger.leases import expired, holds, superseded
from workmesh import errors
from workmesh.chain import digest
from workmesh.errors import MeshError
from workmesh.ledger.v1.event_pb2 import Actor, EffectClaimed, EffectSettled
from workmesh.ledger.v1.ledger_write_service_pb2 import ClaimEffectResult

OPEN: Final = 1
TOOK_PLACE: Final = 2
DID_NOT: Final = 3

OPERATOR: Final = "operator"


def claim(
    job: JobRow | None, item: Claim, effect: EffectRow | None, now_micros: int
) -> Decision[Claimed | MeshError]:
    """Claim an effect for the call that follows, or say what is known of an earlier claim."""
    if job is None or not holds(job, item.epoch):
        return Decision(superseded(job, item.job_id, item.epoch))
    if job.lease_expire_micros <= now_micros:
        return Decision(expired(job))
    if effect is not None and (effect.tool, effect.arguments_digest) != (item.tool, item.arguments_digest):
        return Decision(_mismatch(effect))
    if effect is not None and effect.state == TOOK_PLACE:
        return Decision(Claimed(ClaimEffectResult.STANDING_DONE, effect.result or b""))
    if effect is not None and effect.state == OPEN:
        deadline = effect.call_deadline_micros
        return Decision(Claimed(ClaimEffectResult.STANDING_UNSETTLED, call_deadline_micros=deadline))
    return _claim(job, item, now_micros)


def _claim(job: JobRow, item: Claim, now_micros: int) -> Decision[Claimed | MeshError]:
    job = job._replace(seq=job.seq + 1, update_time_micros=now_micros)
    row = EffectRow(
        job_id=job.job_id,
        series=job.series,
        step=item.step,
        tool=item.tool,
        arguments_digest=item.arguments_digest,
        state=OPEN,
        epoch=item.epoch,
        call_deadline_micros=item.call_deadline_micros,
        claim_time_micros=now_micros,
        settle_time_micros=0,
        result=None,
        source="",
    )
    payload = EffectClaimed(
        series=job.series,
        step=item.step,
        tool=item.tool,
        arguments_digest=item.arguments_digest,
        epoch=item.epoch,
    )
    actor = events.service_actor(events.TOOLHUB, item.instance, job.agent)
    event = events.of_job(job, actor, now_micros, effect_claimed=payload)
    return Decision(Claimed(ClaimEffectResult.STANDING_CLAIMED), job, [event], effect=row)


def settle(
    job: JobRow | None, item: Settle, effect: EffectRow | None, now_micros: int
) -> Decision[Done | MeshError]:
    """Record how a claimed effect came out; the job may have ended meanwhile."""
    if job is None:
        return Decision(errors.not_found("job", item.job_id))
    if effect is None:
        return Decision(_wrong(item, "was never claimed"))
    if effect.state != OPEN:
        same = (effect.state == TOOK_PLACE) == item.done and (effect.result or b"") == item.result
        return Decision(DONE if same else _wrong(item, "was settled before with another outcome"))
    job = job._replace(seq=job.seq + 1, update_time_micros=now_micros)
    row = effect._replace(
        state=TOOK_PLACE if item.done else DID_NOT,
        settle_time_micros=now_micros,
        result=item.result if item.done else None,
        source=item.source,
    )
    payload = EffectSettled(
        series=item.series,
        step=item.step,
        done=item.done,
        result_digest=digest(item.result) if item.done else b"",
        source=item.source,
    )
    event = events.of_job(job, _settler(job, item), now_micros, effect_settled=payload)
    return Decision(DONE, job, [event], effect=row)


def _settler(job: JobRow, item: Settle) -> Actor:
    if item.source == OPERATOR:
        return Actor(kind=Actor.KIND_OPERATOR, instance=item.instance)
    return events.service_actor(events.TOOLHUB, item.instance, job.agent)


def _mismatch(effect: EffectRow) -> MeshError:
    return errors.failed_precondition(
        "REPLAY_MISMATCH",
        f"step {effect.step!r} was claimed before with another tool or other arguments",
        job_id=effect.job_id,
        step=effect.step,
        tool=effect.tool,
    )


def _wrong(item: Settle, why: str) -> MeshError:
    return errors.failed_precondition(
        "WRONG_STATE", f"the effect of step {item.step!r} {why}", job_id=item.job_id, step=item.step
    )
