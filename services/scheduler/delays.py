"""Delays: messages that JetStream holds back until their time (ADR-51, message scheduling)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from services.scheduler.messages import MOVES_HEADER, Publication
from services.scheduler.subjects import delay_subject, job_subject
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROS: Final = 253_402_300_799_999_999
LEAST_ASIDE: Final = 1.0
MOST_ASIDE: Final = 10.0


def rfc3339(micros: int) -> str:
    """Return microseconds since the epoch as an RFC 3339 time in UTC, the year 9999 at the latest."""
    # Exact: a float of this size would lose the last digits.
    return (_EPOCH + timedelta(microseconds=min(micros, _LAST_MICROS))).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def delayed(
    dispatch: Dispatch, payload: bytes, micros: int, *, message_id: str = "", moves: int = 0
) -> Publication:
    """Return the message that brings a dispatch to its lane at a time, microseconds since the epoch.

    There is one such message a dispatch: another replaces it. It comes up to 0.25 s late and never early; a
    time that has passed means at once.
    """
    headers = (
        f"Nats-Schedule: @at {rfc3339(micros)}\r\n"
        f"Nats-Schedule-Target: {job_subject(dispatch.pool, dispatch.lane)}\r\n"
    )
    if message_id:
        headers += f"Nats-Msg-Id: {message_id}\r\n"
    if moves:
        headers += f"{MOVES_HEADER}: {moves}\r\n"
    return Publication(delay_subject(dispatch.job_id, dispatch.dispatch), payload, headers.encode())


def aside_seconds(moves: int) -> float:
    """Return how long a message waits that nobody here can run: 1, 2, 4, 8, then 10 s."""
    return float(min(MOST_ASIDE, LEAST_ASIDE * 2 ** min(moves, 10)))
