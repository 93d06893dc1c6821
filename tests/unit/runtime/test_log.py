from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from workmesh import log, telemetry


@pytest.fixture
def lines() -> Iterator[io.BytesIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.BytesIO()
    log.configure("ledger", "host-1", "INFO", stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def read(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_carries_time_level_names_action_message_and_ids(lines: io.BytesIO) -> None:
    logging.getLogger("services.ledger").info("committed %d", 3, extra={"action": "job_committed", "jobs": 3})
    (line,) = read(lines)
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "INFO",
        "service": "ledger",
        "instance": "host-1",
        "logger": "services.ledger",
        "action": "job_committed",
        "message": "committed 3",
        "trace_id": "",
        "jobs": 3,
    }


def test_a_line_carries_the_trace_it_was_written_for(lines: io.BytesIO) -> None:
    parent = telemetry.new_traceparent()
    with telemetry.trace(parent):
        logging.getLogger("x").warning("inside")
    logging.getLogger("x").warning("outside")
    assert [line["trace_id"] for line in read(lines)] == [parent.split("-")[1], ""]


def test_an_exception_is_told_with_its_stack_on_one_line(lines: io.BytesIO) -> None:
    try:
        raise KeyError("gone")
    except KeyError:
        logging.getLogger("x").exception("failed")
    (line,) = read(lines)
    assert line["error"]["type"] == "KeyError"
    assert "test_log.py" in line["error"]["stack"]


def test_fields_named_like_secrets_are_not_written(lines: io.BytesIO) -> None:
    extra = {"api_token": "hunter2", "Authorization": "hunter2", "db_password": "hunter2", "token_id": "t1"}
    logging.getLogger("x").info("called", extra=extra)
    assert b"hunter2" not in lines.getvalue()
    assert read(lines)[0]["token_id"] == "t1"


def test_what_json_does_not_know_is_written_as_text(lines: io.BytesIO) -> None:
    logging.getLogger("x").info("odd", extra={"thing": {1}, "number": 1.5})
    assert read(lines)[0]["thing"] == "{1}"


def test_text_that_is_no_unicode_is_still_a_line() -> None:
    stream = io.BytesIO()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "bad \ud800 text", (), None)
    log.JsonHandler("ledger", "host-1", stream).emit(record)
    (line,) = read(stream)
    assert line["message"] == "bad \ud800 text"


def test_a_message_that_cannot_be_formatted_is_still_a_line() -> None:
    record = logging.makeLogRecord({"msg": "%d jobs", "args": ("three",)})
    line = json.loads(log.JsonHandler("ledger", "host-1", io.BytesIO()).render(record))
    assert "three" in line["message"]


def test_lines_below_the_level_are_not_written(lines: io.BytesIO) -> None:
    logging.getLogger("x").debug("hidden")
    logging.getLogger("grpc").info("hidden")
    assert lines.getvalue() == b""


def test_nobody_reading_any_more_is_no_reason_to_fail(lines: io.BytesIO) -> None:
    lines.close()
    logging.getLogger("x").error("unheard")


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="is no log level"):
        log.configure("x", "y", "LOUD")
