"""What a reply means."""

from __future__ import annotations

import grpc
import pytest

from services.toolhub.http import read_retry_after
from services.toolhub.integrations import Effect, Integration, Kind, Operation
from services.toolhub.outcomes import Answer, Failure, Lost, Reach, Success, judge, to_error
from services.toolhub.secret import Secret

OPERATION = Operation("get", Effect.READ)
INTEGRATION = Integration("erp", Kind.HTTP, {"get": OPERATION})


def failure_of(reply: Answer | Lost, secret: Secret | None = None) -> Failure:
    outcome = judge(reply, OPERATION, secret)
    assert isinstance(outcome, Failure)
    return outcome


@pytest.mark.parametrize(
    ("status", "reach", "transient"),
    [
        (301, Reach.UNKNOWN, False),
        (303, Reach.UNKNOWN, False),
        (400, Reach.DECLINED, False),
        (404, Reach.DECLINED, False),
        (408, Reach.UNKNOWN, True),
        (425, Reach.DECLINED, True),
        (429, Reach.DECLINED, True),
        (499, Reach.DECLINED, False),
        (500, Reach.UNKNOWN, True),
        (503, Reach.UNKNOWN, True),
        (599, Reach.UNKNOWN, True),
        (200, Reach.UNKNOWN, False),
    ],
)
def test_a_status_tells_how_far_the_request_got(status: int, reach: Reach, transient: bool) -> None:
    failure = failure_of(Answer(status, b"no json"))
    assert (failure.reach, failure.transient, failure.http_status) == (reach, transient, status)


@pytest.mark.parametrize("sent", [True, False])
def test_a_lost_request_may_be_repeated_and_was_sent_or_not(sent: bool) -> None:
    failure = failure_of(Lost("broke", sent))
    assert failure.reach is (Reach.UNKNOWN if sent else Reach.NOT_SENT)
    assert failure.transient


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (400, grpc.StatusCode.FAILED_PRECONDITION, "INTEGRATION_REFUSED"),
        (302, grpc.StatusCode.FAILED_PRECONDITION, "INTEGRATION_REFUSED"),
        (429, grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED"),
        (500, grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED"),
        (200, grpc.StatusCode.UNAVAILABLE, "INTEGRATION_FAILED"),
    ],
)
def test_a_failure_becomes_the_error_of_its_kind(status: int, code: grpc.StatusCode, reason: str) -> None:
    error = to_error(failure_of(Answer(status, b"<")), INTEGRATION, OPERATION, 3.0)
    assert (error.code, error.reason) == (code, reason)
    assert error.metadata == {"integration": "erp", "operation": "get", "http_status": str(status)}
    assert error.retry_after == (3.0 if code is grpc.StatusCode.UNAVAILABLE else None)


def test_a_body_is_told_on_one_line_of_bounded_length() -> None:
    message = failure_of(Answer(400, b"a\n\tb\x00\xff" + b"c" * 1_000)).message
    assert message.startswith("answered HTTP 400: a b ")
    assert message.isprintable()
    assert len(message) < 350


def test_a_secret_is_taken_out_before_the_text_is_cut() -> None:
    secret = Secret("x" * 290 + "tail")
    message = failure_of(Answer(400, ("a" * 200 + "x" * 290 + "tail").encode()), secret).message
    assert message == f"answered HTTP 400: {'a' * 200}[secret]"


@pytest.mark.parametrize("cut_at", [*range(1, 10)])
def test_a_secret_that_the_reading_cut_in_two_is_taken_out_too(cut_at: int) -> None:
    secret = Secret("0123456789")
    message = failure_of(
        Answer(400, b"see 0123456789 and " + b"0123456789"[:cut_at], cut=True), secret
    ).message
    assert "01" not in message.replace("[secret]", "")


def test_a_secret_in_a_result_is_masked_and_the_result_stays_json() -> None:
    secret = Secret('a"b/c\\d')
    outcome = judge(Answer(200, rb'{"k":"a\"b\/c\\d","l":1}'), OPERATION, secret)
    assert outcome == Success(b'{"k":"[secret]","l":1}')


def test_a_secret_shows_in_no_representation() -> None:
    secret = Secret("hush-hush")
    assert "hush" not in f"{secret!r} {secret} {[secret]}"


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("9" * 400, 86_400.0),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Thu, 99 Jan 1970", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, wait: float | None) -> None:
    assert read_retry_after(text, 10.0) == wait
