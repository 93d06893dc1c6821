from __future__ import annotations

import os
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workmesh import ids


def test_identifiers_are_canonical_and_of_version_7() -> None:
    made = ids.uuid7()
    assert ids.is_uuid(made)
    assert str(uuid.UUID(made)) == made
    assert uuid.UUID(made).version == 7
    assert uuid.UUID(made).variant == uuid.RFC_4122


def test_identifiers_rise_and_never_repeat_within_a_process() -> None:
    made = [ids.uuid7() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_identifier_begins_with_the_milliseconds_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    millis = uuid.UUID(ids.uuid7()).int >> 80
    assert before <= millis <= time.time_ns() // 1_000_000 + 1


def test_identifiers_rise_when_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.uuid7()
    earlier = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: earlier)
    assert ids.uuid7() > first


def test_a_forked_process_does_not_repeat_its_parents_identifiers() -> None:
    ids.uuid7()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, "".join(ids.uuid7() for _ in range(10)).encode())
        os._exit(0)
    ours = {ids.uuid7()[-12:] for _ in range(10)}
    os.waitpid(child, 0)
    answer = os.read(reader, 1_000).decode()
    os.close(reader)
    os.close(writer)
    theirs = {answer[start : start + 36][-12:] for start in range(0, len(answer), 36)}
    assert len(theirs) == 10
    assert not ours & theirs


@pytest.mark.parametrize(
    "text", ["", "x", "01A20342-DCD7-7240-9D99-AD1A3A3DB967", "01a20342dcd772409d99ad1a3a3db967"]
)
def test_other_spellings_are_no_identifiers(text: str) -> None:
    assert not ids.is_uuid(text)


@given(st.from_regex(ids.NAME_PATTERN, fullmatch=True))
def test_what_the_pattern_describes_is_a_name(text: str) -> None:
    assert ids.is_name(text)
    assert len(text) <= 63


@pytest.mark.parametrize("text", ["", "-a", "A", "a_b", "a.b", "a b", "a\n", "é", "a" * 64, "*", ">"])
def test_what_would_break_a_subject_is_no_name(text: str) -> None:
    assert not ids.is_name(text)
