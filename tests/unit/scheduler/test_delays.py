"""Messages for later."""

from __future__ import annotations

import pytest

from services.scheduler.delays import aside_seconds, delayed, rfc3339
from workmesh.common.v1.job_pb2 import LANE_BATCH
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

JOB = "018f0000-0000-7000-8000-000000000001"


def dispatch(job_id: str = JOB) -> Dispatch:
    return Dispatch(job_id=job_id, dispatch=3, pool="default", lane=LANE_BATCH)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_355_458_123_456, "2026-11-22T13:50:58.123456Z"),
        # The year 10000 cannot be written down: the last moment before it.
        (1 << 62, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_exact_to_the_microsecond(micros: int, text: str) -> None:
    assert rfc3339(micros) == text


def test_a_delayed_message_names_its_time_and_lane_and_has_one_subject_a_dispatch() -> None:
    message = delayed(dispatch(), b"payload", 1_795_355_458_000_000, message_id="g:j:3")
    assert message.subject == f"delay.{JOB}.3"
    assert message.headers.decode().splitlines() == [
        "Nats-Schedule: @at 2026-11-22T13:50:58.000000Z",
        "Nats-Schedule-Target: jobs.default.batch.0",
        "Nats-Msg-Id: g:j:3",
    ]


def test_a_moved_message_has_no_id_that_could_be_swallowed() -> None:
    message = delayed(dispatch(), b"", 1, moves=2)
    assert b"Nats-Msg-Id" not in message.headers
    assert b"Workmesh-Moves: 2\r\n" in message.headers


def test_what_cannot_be_a_token_of_a_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="job id"):
        delayed(dispatch("x.>"), b"", 1)


def test_jobs_put_aside_come_back_later_and_later_up_to_ten_seconds() -> None:
    assert [aside_seconds(moves) for moves in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert aside_seconds(10_000) == 10.0
