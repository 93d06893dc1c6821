"""Unsafe effects: claimed in the ledger before the call, settled after, never fired twice on a guess.

An effect is known by (job, attempt series, step). Its claim is granted once; met again it is either done
(the first result is given) or unsettled: the first call may still be under way, or its end was lost.
Then nothing is fired. After the first call's deadline and a settle delay the effect is looked for by
the operation's read-back, if it has one; only an authoritative one may prove that there is no effect,
which permits a new claim. Everything else is for a person to decide.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

import orjson

from services.toolhub.arguments import (
    Request,
    at_path,
    build_request,
    check_arguments,
    read_back_arguments,
)
from services.toolhub.call import Call
from services.toolhub.flight import Flight
from services.toolhub.integrations import Operation, ReadBack
from services.toolhub.outcomes import Failure, Reach, Success
from services.toolhub.retry import is_settled
from workmesh import errors
from workmesh.clock import Clock
from workmesh.errors import MeshError

_logger = logging.getLogger(__name__)

_MAX_FIRES: Final = 3
_POLL_SECONDS: Final = 0.5
_MAX_WAIT_SECONDS: Final = 120.0
_GONE: Final = frozenset({404, 410})


class Standing(Enum):
    """What the ledger knows of an effect that is being claimed."""

    CLAIMED = "claimed"
    DONE = "done"
    UNSETTLED = "unsettled"


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim. `deadline`: when the call that holds it is over at the latest."""

    standing: Standing
    result: bytes = b""
    deadline: float = 0.0


class EffectLedger(Protocol):
    """Where effects are claimed and settled."""

    async def claim(self, call: Call, arguments_digest: bytes, deadline: float) -> Claim:
        """Claim the effect of a call that will be over by `deadline` (epoch seconds).

        FAILED_PRECONDITION REPLAY_MISMATCH with other arguments than before, ABORTED for a lost lease.
        """

    async def settle(self, call: Call, *, done: bool, result: bytes, source: str) -> None:
        """Record what became of an effect, insisting for a while when the ledger does not answer.

        FAILED_PRECONDITION WRONG_STATE when another outcome stands already.
        """


@dataclass(frozen=True, slots=True)
class _Pending:
    """An effect whose outcome is not known. `over`: when its call is over; `own`: it was ours and is."""

    over: float
    own: bool


class Effects:
    """Performs the calls of unsafe operations."""

    def __init__(self, ledger: EffectLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def perform(self, call: Call, arguments: Mapping[str, Any], flight: Flight) -> bytes:
        """Return the effect's result, which may be that of an earlier call.

        FAILED_PRECONDITION EFFECT_UNSETTLED when the outcome cannot be found out: with RetryInfo when a later
        attempt may find it out, without when only a person can.
        """
        request = build_request(call.target.operation, arguments, call.idempotency_key)
        patience = self._clock.time() + _MAX_WAIT_SECONDS
        fires = 0
        while fires < _MAX_FIRES:
            ended = await self._fire(call, request, flight)
            if isinstance(ended, bytes):
                return ended
            fires += ended.own
            if await self._is_over(call, ended, patience):
                found = await self._reconcile(call, arguments, flight)
                if found is not None:
                    return found
        raise _unsettled(call, "it failed repeatedly", retry_after=_POLL_SECONDS)

    async def _fire(self, call: Call, request: Request, flight: Flight) -> bytes | _Pending:
        """Claim the effect and, when the claim is granted, make the call."""
        link = call.target.link
        budget = link.open_budget(call.deadline)
        digest = hashlib.sha256(call.arguments).digest()
        async with link.bulkhead.slot(budget):
            # From the claim on a cancelled caller changes nothing: the claim is brought to a known end.
            with flight.hold():
                remaining = budget.remaining(self._clock.monotonic())
                claim = await self._ledger.claim(call, digest, self._clock.time() + remaining)
                if claim.standing is Standing.DONE:
                    return claim.result
                if claim.standing is Standing.UNSETTLED:
                    return _Pending(claim.deadline, own=False)
                if flight.abandoned or not budget.allows(self._clock.monotonic()):
                    outcome: Success | Failure = _not_begun()
                else:
                    outcome = await link.send(call.target.operation, request, budget, flight)
                if isinstance(outcome, Success):
                    return await self._settle_done(call, outcome.result, "answer")
                if is_settled(outcome):
                    await self._settle_not_done(call, "answer")
                    raise link.error(call.target.operation, outcome, budget)
                return _Pending(self._clock.time(), own=True)

    async def _is_over(self, call: Call, pending: _Pending, patience: float) -> bool:
        """Wait until the effect must have appeared if it ever will; False to ask the ledger once more before.

        Raises EFFECT_UNSETTLED with the time to come back when the caller cannot wait as long.
        """
        now = self._clock.time()
        due = pending.over + call.target.link.integration.settle_delay
        if due <= now:
            return True
        if due >= (patience if call.deadline is None else min(patience, call.deadline)):
            raise _unsettled(call, "its call may still be under way", retry_after=due - now)
        if pending.own:
            await asyncio.sleep(due - now)
            return True
        # The process that made the call may settle it any moment.
        await asyncio.sleep(min(_POLL_SECONDS, due - now))
        return False

    async def _reconcile(self, call: Call, arguments: Mapping[str, Any], flight: Flight) -> bytes | None:
        """Find out what became of the effect: its result, or None when it may be claimed anew."""
        read_back = call.target.operation.read_back
        if read_back is None:
            raise _unsettled(call, "the operation has no read-back")
        result = await self._read_back(call, read_back, arguments, flight)
        try:
            if result is not None:
                return await self._settle_done(call, result, "read_back")
            if not read_back.authoritative:
                raise _unsettled(call, "its read-back does not show it, which proves nothing")
            await self._settle_not_done(call, "read_back")
        except MeshError as error:
            if error.reason != "WRONG_STATE":
                raise
            # Somebody else has found out meanwhile: the next claim tells what.
        return None

    async def _read_back(
        self, call: Call, read_back: ReadBack, arguments: Mapping[str, Any], flight: Flight
    ) -> bytes | None:
        """Return the effect as the external system shows it; None when it shows none."""
        link = call.target.link
        reader = link.integration.operations[read_back.operation]
        request = _reading_request(call, read_back, reader, arguments)
        budget = link.open_budget(call.deadline)
        outcome = await link.call(reader, request, budget, flight)
        if isinstance(outcome, Success):
            value = at_path(orjson.loads(outcome.result), read_back.result)
            return orjson.dumps(value) if value not in (None, [], {}, "") else None
        if outcome.http_status in _GONE:
            return None
        error = link.error(reader, outcome, budget)
        raise _unsettled(call, f"its read-back failed: {error.message}", retry_after=error.retry_after)

    async def _settle_done(self, call: Call, result: bytes, source: str) -> bytes:
        try:
            await self._ledger.settle(call, done=True, result=result, source=source)
        except MeshError as error:
            if error.reason == "WRONG_STATE":
                raise
            # The effect took place and its result is known: withholding it would only lose it.
            self._report(call, error)
        return result

    async def _settle_not_done(self, call: Call, source: str) -> None:
        try:
            await self._ledger.settle(call, done=False, result=b"", source=source)
        except MeshError as error:
            if error.reason == "WRONG_STATE":
                raise
            self._report(call, error)

    def _report(self, call: Call, error: MeshError) -> None:
        _logger.error(
            "an effect's outcome could not be recorded",
            extra={
                "action": "effect_not_settled",
                "job_id": call.job_id,
                "step": call.step,
                "tool": call.target.name,
                "reason": error.reason,
            },
        )


def _reading_request(
    call: Call, read_back: ReadBack, reader: Operation, arguments: Mapping[str, Any]
) -> Request:
    chosen = read_back_arguments(read_back, reader, arguments, call.idempotency_key)
    try:
        # Without the key: a system that deduplicates must not take the question for the effect.
        return build_request(reader, check_arguments(reader, orjson.dumps(chosen)))
    except MeshError as error:
        raise _unsettled(call, f"the call's arguments do not suit its read-back: {error}") from None


def _not_begun() -> Failure:
    return Failure(Reach.NOT_SENT, "was not asked: no time was left", transient=True, timed_out=True)


def _unsettled(call: Call, why: str, retry_after: float | None = None) -> MeshError:
    error = errors.failed_precondition(
        "EFFECT_UNSETTLED",
        f"{call.target.name}: whether the effect took place is not known; {why}",
        tool=call.target.name,
        job_id=call.job_id,
        step=call.step,
    )
    error.retry_after = retry_after
    return error
