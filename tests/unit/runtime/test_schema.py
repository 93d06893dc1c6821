from __future__ import annotations

import time
from typing import Any

import grpc
import orjson
import pytest

from workmesh.errors import MeshError, Violation
from workmesh.schema import MAX_VIOLATIONS, CompiledSchema

BOOKING: dict[str, Any] = {
    "type": "object",
    "required": ["container"],
    "properties": {
        "container": {
            "type": "object",
            "properties": {"number": {"type": "string", "pattern": "^[A-Z]{4}[0-9]{7}$"}},
        },
        "weights": {"type": "array", "items": {"type": "integer"}},
    },
}


def compiled(schema: Any, **names: str) -> CompiledSchema:
    return CompiledSchema(orjson.dumps(schema), **names)


def test_a_matching_value_has_no_violations() -> None:
    assert compiled(BOOKING).validate({"container": {"number": "MSKU9070323"}, "weights": [1]}) == []


def test_each_violation_is_named_by_its_path() -> None:
    value = {"container": {"number": "MSKU"}, "weights": [1, "heavy"]}
    assert [each.field for each in compiled(BOOKING).validate(value)] == [
        "input.container.number",
        "input.weights[1]",
    ]
    assert compiled(BOOKING, root="jobs[3].input").validate({}) == [
        Violation("jobs[3].input", '"container" is a required property')
    ]


def test_violations_are_bounded_in_number_and_length() -> None:
    found = compiled({"items": {"type": "integer"}}).validate(["x" * 10_000] * 1_000)
    assert len(found) == MAX_VIOLATIONS
    assert max(len(each.description) for each in found) <= 200


def test_checking_raises_all_violations() -> None:
    with pytest.raises(MeshError) as refused:
        compiled(BOOKING).check({"weights": "none"})
    assert (refused.value.code, refused.value.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "SCHEMA_MISMATCH",
    )
    assert len(refused.value.violations) == 2
    compiled(BOOKING).check({"container": {}})


@pytest.mark.parametrize(
    "schema",
    [
        b"",
        b"{",
        b"12",
        b'"object"',
        b"[]",
        b'{"type":"objec"}',
        b'{"$ref":"#/$defs/none"}',
        b'{"pattern":"("}',
        b'{"pattern":"(?=look)"}',
    ],
)
def test_what_is_no_usable_schema_is_refused(schema: bytes) -> None:
    with pytest.raises(MeshError) as refused:
        CompiledSchema(schema, field="definition.input_schema")
    assert [each.field for each in refused.value.violations] == ["definition.input_schema"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1/s.json", "file:///etc/passwd"])
def test_a_schema_never_makes_us_fetch_anything(uri: str) -> None:
    with pytest.raises(MeshError, match="may not refer to"):
        compiled({"$ref": uri})


def test_a_pattern_made_to_backtrack_is_matched_in_linear_time() -> None:
    evil = compiled({"pattern": "^(a+)+$"})
    start = time.process_time()
    assert len(evil.validate("a" * 50_000 + "!")) == 1
    assert time.process_time() - start < 5
