from __future__ import annotations

import json
import math
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from workmesh import payload
from workmesh.errors import MeshError

_EXACT = 2**53
_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-_EXACT, _EXACT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=20,
)
_DOCUMENTS = st.dictionaries(_TEXT, _VALUES, max_size=6)


def struct_of(document: dict[str, Any]) -> Struct:
    return ParseDict(document, Struct())


def nested(depth: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(depth - 1):
        document = {"a": document}
    return document


@given(_DOCUMENTS)
def test_a_document_survives_the_way_to_struct_and_back(document: dict[str, Any]) -> None:
    struct = Struct()
    payload.json_to_struct(orjson.dumps(document), struct)
    assert MessageToDict(struct) == document
    assert orjson.loads(payload.struct_to_json(struct)) == document


@given(_DOCUMENTS)
def test_equal_documents_have_equal_bytes_whatever_their_order(document: dict[str, Any]) -> None:
    turned = dict(reversed(list(document.items())))
    assert payload.struct_to_json(struct_of(document)) == payload.struct_to_json(struct_of(turned))


@given(_DOCUMENTS)
def test_a_document_survives_dumping_and_loading(document: dict[str, Any]) -> None:
    data = payload.dump_json(document)
    assert payload.load_json(data) == document
    assert list(payload.load_json(data)) == list(document)


def test_integral_numbers_become_integers_as_long_as_they_are_exact() -> None:
    data = payload.struct_to_json(struct_of({"a": 3.0, "b": -0.5, "c": 1e300, "d": 2.0**53, "e": [7]}))
    assert data == b'{"a":3,"b":-0.5,"c":1e+300,"d":9007199254740992,"e":[7]}'


def test_empty_values_keep_their_kind() -> None:
    document = {"a": "", "b": 0, "c": False, "d": None, "e": [], "f": {}}
    struct = Struct()
    payload.json_to_struct(orjson.dumps(document), struct)
    assert orjson.loads(payload.struct_to_json(struct)) == document
    assert {key: value.WhichOneof("kind") for key, value in struct.fields.items()} == {
        "a": "string_value",
        "b": "number_value",
        "c": "bool_value",
        "d": "null_value",
        "e": "list_value",
        "f": "struct_value",
    }


def refusal(document: dict[str, Any] | Struct) -> MeshError:
    struct = document if isinstance(document, Struct) else struct_of(document)
    with pytest.raises(MeshError) as refused:
        payload.struct_to_json(struct)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return refused.value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_cannot_carry_is_named_by_its_path(number: float) -> None:
    struct = struct_of({"container": {"weights": [1, {"net": 2}]}, "ok": 1})
    struct.fields["container"].struct_value.fields["weights"].list_value.values[1].struct_value.fields[
        "net"
    ].number_value = number
    error = refusal(struct)
    assert [each.field for each in error.violations] == ["input.container.weights[1].net"]


def test_u0000_is_refused_in_texts_and_in_keys() -> None:
    assert refusal({"a": {"b": ["x\0y"]}}).violations[0].field == "input.a.b[0]"
    assert refusal({"a\0": 1}).violations[0].field == "input.a\\u0000"


def test_a_backslash_before_u0000_is_no_u0000() -> None:
    document = {"path": "C:\\u0000", "other": "\\\\u0000"}
    data = payload.struct_to_json(struct_of(document))
    assert orjson.loads(data) == document
    assert payload.load_json(data) == document
    assert orjson.loads(payload.dump_json(document)) == document


def test_a_document_may_be_32_levels_deep_and_no_deeper() -> None:
    payload.struct_to_json(struct_of(nested(32)))
    assert "32 levels" in refusal(struct_of_depth(33)).message
    payload.load_json(orjson.dumps(nested(32)))
    payload.dump_json(nested(32))
    for refuse in (
        lambda: payload.load_json(orjson.dumps(nested(33))),
        lambda: payload.dump_json(nested(33)),
    ):
        with pytest.raises(MeshError, match="32 levels"):
            refuse()


def struct_of_depth(depth: int) -> Struct:
    struct = Struct()
    inner = struct
    for _ in range(depth - 1):
        inner = inner.fields["a"].struct_value
        inner.SetInParent()
    return struct


def test_many_brackets_side_by_side_are_not_deep() -> None:
    document: dict[str, Any] = {"rows": [[] for _ in range(100)]}
    assert payload.load_json(payload.dump_json(document)) == document


def test_a_document_over_one_mebibyte_is_too_large() -> None:
    room = payload.MAX_BYTES - len(b'{"a":""}')
    payload.struct_to_json(struct_of({"a": "x" * room}))
    error = refusal({"a": "x" * (room + 1)})
    assert error.reason == "PAYLOAD_TOO_LARGE"
    assert error.metadata["limit"] == str(payload.MAX_BYTES)
    with pytest.raises(MeshError, match="PAYLOAD_TOO_LARGE"):
        payload.load_json(b'"' + b"x" * payload.MAX_BYTES + b'"')
    with pytest.raises(MeshError, match="PAYLOAD_TOO_LARGE"):
        payload.dump_json("x" * payload.MAX_BYTES)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"NaN", b"[1,]", b'{"a":1e999}', b'"\xff"', b'"\\ud800"', b'"\x00"']
)
def test_what_is_no_json_is_refused(data: bytes) -> None:
    with pytest.raises(MeshError, match="is not JSON"):
        payload.load_json(data)


def test_loading_refuses_u0000() -> None:
    with pytest.raises(MeshError, match=r"body\.a\[0\] holds U\+0000"):
        payload.load_json(json.dumps({"a": ["\0"]}).encode())


@pytest.mark.parametrize("value", [{"a": {1, 2}}, {"a": object()}, {1: 2}, {"a": 2**70}, {"a": "\ud800"}])
def test_what_json_cannot_carry_is_not_dumped(value: Any) -> None:
    with pytest.raises(MeshError, match="is not JSON"):
        payload.dump_json(value)


def test_dumping_never_turns_nan_into_null() -> None:
    with pytest.raises(MeshError, match=r"output\.a\[1\] is NaN or infinite"):
        payload.dump_json({"a": [None, math.nan]})
    assert payload.dump_json({"a": [None, "null"]}) == b'{"a":[null,"null"]}'
