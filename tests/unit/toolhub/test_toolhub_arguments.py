"""Arguments become requests."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from services.toolhub.arguments import at_path, build_request, check_arguments, read_back_arguments
from services.toolhub.integrations import Effect, Operation, ReadBack, Schema
from workmesh.errors import MeshError
from workmesh.schema import CompiledSchema

# A busy machine is no reason to fail.
PATIENT = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def operation(method: str = "GET", path: str = "/o/{id}", schema: bytes = b"") -> Operation:
    compiled = Schema(schema, CompiledSchema(schema, root="arguments")) if schema else None
    return Operation("op", Effect.READ, method=method, path=path, input=compiled)


words = st.text(max_size=12)


@PATIENT
@given(st.text(min_size=1, max_size=12).filter(lambda text: text not in {".", ".."}))
def test_whatever_a_path_argument_holds_it_stays_one_segment(value: str) -> None:
    target = build_request(operation(), {"id": value}).target
    parts = urlsplit(f"http://host{target}")
    assert (parts.query, parts.fragment) == ("", "")
    assert [unquote(part) for part in parts.path.split("/")] == ["", "o", value]
    assert URL(f"http://host{target}", encoded=True).raw_path == target


@PATIENT
@given(st.dictionaries(words, words | st.lists(words, max_size=3), max_size=4))
def test_whatever_a_query_argument_holds_it_arrives(values: dict[str, Any]) -> None:
    target = build_request(operation(path="/"), values).target
    pairs = [
        (name, each)
        for name, value in values.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    assert parse_qsl(urlsplit(f"http://host{target}").query, keep_blank_values=True) == pairs


@pytest.mark.parametrize("value", ["", ".", "..", None, {}, [1]])
def test_what_would_lead_elsewhere_is_refused_in_a_path(value: object) -> None:
    with pytest.raises(MeshError) as caught:
        build_request(operation(), {"id": value})
    assert caught.value.reason == "SCHEMA_MISMATCH"
    assert [each.field for each in caught.value.violations] == ["arguments.id"]


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (1.5, "1.5"), (True, "true"), ("ä/b", "%C3%A4%2Fb")])
def test_scalars_stand_in_a_path_as_json_writes_them(value: object, text: str) -> None:
    assert build_request(operation(), {"id": value}).target == f"/o/{text}"


def test_a_nested_argument_does_not_fit_a_query() -> None:
    with pytest.raises(MeshError) as caught:
        build_request(operation(path="/"), {"where": {"a": 1}})
    assert [each.field for each in caught.value.violations] == ["arguments.where"]


def test_a_url_has_a_bounded_length() -> None:
    with pytest.raises(MeshError):
        build_request(operation(), {"id": "x" * 10_000})


@pytest.mark.parametrize(
    ("method", "arguments", "body"),
    [
        ("POST", {"id": "1", "a": [1]}, b'{"a":[1]}'),
        ("POST", {"id": "1"}, b"{}"),
        ("PUT", {"id": "1"}, b"{}"),
        ("DELETE", {"id": "1"}, None),
        ("DELETE", {"id": "1", "why": "x"}, b'{"why":"x"}'),
        ("GET", {"id": "1"}, None),
    ],
)
def test_the_rest_is_the_body(method: str, arguments: dict[str, Any], body: bytes | None) -> None:
    assert build_request(operation(method), arguments).body == body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[]", "INVALID_FIELD"),
        (b"7", "INVALID_FIELD"),
        (b"{", "INVALID_FIELD"),
        (b'{"a":"\\u0000"}', "INVALID_FIELD"),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b"}", "INVALID_FIELD"),
        (b'{"a":"' + b"x" * (1 << 20) + b'"}', "PAYLOAD_TOO_LARGE"),
        (b'{"id":7}', "SCHEMA_MISMATCH"),
    ],
)
def test_bad_arguments_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MeshError) as caught:
        check_arguments(operation(schema=b'{"properties":{"id":{"type":"string"}}}'), data)
    assert caught.value.reason == reason
    assert all(each.field.startswith("arguments") for each in caught.value.violations)


def test_no_arguments_are_an_empty_object() -> None:
    assert check_arguments(operation(), b"") == {}


@pytest.mark.parametrize(
    ("path", "found"),
    [("", {"a": [{"b": 1}]}), ("a", [{"b": 1}]), ("a.0.b", 1), ("a.1", None), ("a.x", None), ("c.d", None)],
)
def test_a_dotted_path_finds_what_stands_there(path: str, found: object) -> None:
    assert at_path({"a": [{"b": 1}]}, path) == found


def test_a_read_back_takes_the_arguments_its_operation_knows() -> None:
    reader = operation(schema=b'{"properties":{"full":{}}}')
    chosen = read_back_arguments(ReadBack("op"), reader, {"id": "1", "full": True, "lines": []}, "key")
    assert chosen == {"id": "1", "full": True}


def test_a_read_back_takes_the_arguments_it_maps() -> None:
    mapping = {"number": "order.number", "key": "@idempotency_key", "gone": "order.gone"}
    chosen = read_back_arguments(
        ReadBack("op", arguments=mapping), operation(), {"order": {"number": 7}}, "job:1:2"
    )
    assert chosen == {"number": 7, "key": "job:1:2"}
