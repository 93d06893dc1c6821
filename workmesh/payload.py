"""JSON documents: bytes inside the mesh, google.protobuf.Struct at its public edge.

Limits (P8): no NaN or Infinity, no U+0000, at most 32 levels deep, at most 1 MiB as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import orjson
from google.protobuf.struct_pb2 import ListValue, Struct, Value

from workmesh import errors

MAX_BYTES: Final = 1 << 20
MAX_DEPTH: Final = 32

# Integers beyond are not exact in a double: they stay what they were, doubles.
_MAX_EXACT = 1 << 53
_NUL = b"\\u0000"


class _TooDeep(Exception):
    """The document is nested deeper than MAX_DEPTH."""


def struct_to_json(struct: Struct, *, field: str = "input") -> bytes:
    """Return the document as JSON with sorted keys.

    A map has no order of its own, and equal documents shall have one digest. Integral numbers become
    integers. Raises INVALID_ARGUMENT with the violating path under `field`.
    """
    try:
        value = _object(struct, MAX_DEPTH)
    except (ValueError, OverflowError):
        raise _refuse(_find_number(struct, field), "is NaN or infinite") from None
    except _TooDeep:
        raise _refuse(field, f"is nested deeper than {MAX_DEPTH} levels") from None
    data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    _check_bytes(data, value, field)
    return data


def json_to_struct(data: bytes, into: Struct) -> None:
    """Fill an empty Struct from a JSON object of the mesh's own making; ValueError when it is none."""
    value = orjson.loads(data)
    if not isinstance(value, dict):
        raise ValueError("the document is not a JSON object")
    _fill_object(into, value)


def load_json(data: bytes, *, field: str = "body") -> Any:
    """Parse JSON that came from outside; INVALID_ARGUMENT unless it is JSON within the limits."""
    if len(data) > MAX_BYTES:
        raise _too_large(field, len(data))
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise _refuse(field, f"is not JSON: {error}") from None
    _check_depth(data, value, field)
    if _NUL in data:
        _check_nul(value, field)
    return value


def dump_json(value: Any, *, field: str = "output") -> bytes:
    """Serialise a value in its own key order; INVALID_ARGUMENT when it is no JSON or beyond the limits."""
    try:
        data = orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _refuse(field, f"is not JSON: {error}") from None
    if b"null" in data:
        # orjson writes NaN and Infinity as null, which would change the document without a word.
        for path, leaf in _leaves(value, field):
            if type(leaf) is float and not math.isfinite(leaf):
                raise _refuse(path, "is NaN or infinite")
    _check_depth(data, value, field)
    _check_bytes(data, value, field)
    return data


def _object(struct: Struct, room: int) -> dict[str, Any]:
    if not room:
        raise _TooDeep
    fields = struct.fields
    result: dict[str, Any] = {}
    for key in fields:
        value = fields[key]
        # Most values are strings, and asking for one is cheaper than asking which kind it is.
        result[key] = value.string_value or _value(value, room)
    return result


def _list(values: ListValue, room: int) -> list[Any]:
    if not room:
        raise _TooDeep
    return [value.string_value or _value(value, room) for value in values.values]


def _value(value: Value, room: int) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        whole = int(number)
        return whole if whole == number and -_MAX_EXACT <= whole <= _MAX_EXACT else number
    if kind == "struct_value":
        return _object(value.struct_value, room - 1)
    if kind == "list_value":
        return _list(value.list_value, room - 1)
    if kind == "bool_value":
        return value.bool_value
    return "" if kind == "string_value" else None


def _fill_object(struct: Struct, values: dict[str, Any]) -> None:
    fields = struct.fields
    for key, value in values.items():
        _fill_value(fields[key], value)


def _fill_value(target: Value, value: Any) -> None:
    kind = type(value)
    if kind is str:
        target.string_value = value
    elif kind is int or kind is float:
        target.number_value = value
    elif kind is bool:
        target.bool_value = value
    elif kind is dict:
        target.struct_value.SetInParent()
        _fill_object(target.struct_value, value)
    elif kind is list:
        target.list_value.SetInParent()
        add = target.list_value.values.add
        for each in value:
            _fill_value(add(), each)
    else:
        target.null_value = 0  # type: ignore[assignment]


def _check_bytes(data: bytes, value: Any, field: str) -> None:
    if len(data) > MAX_BYTES:
        raise _too_large(field, len(data))
    if _NUL in data:
        _check_nul(value, field)


def _check_depth(data: bytes, value: Any, field: str) -> None:
    # A document with fewer brackets than levels cannot be too deep.
    if data.count(b"{") + data.count(b"[") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise _refuse(field, f"is nested deeper than {MAX_DEPTH} levels")


def _depth_exceeds(value: Any, room: int) -> bool:
    if isinstance(value, dict):
        return not room or any(_depth_exceeds(each, room - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return not room or any(_depth_exceeds(each, room - 1) for each in value)
    return False


def _check_nul(value: Any, field: str) -> None:
    """Find the U+0000; the bytes alone do not tell it from a backslash followed by u0000."""
    for path, leaf in _leaves(value, field):
        if (isinstance(leaf, str) and "\0" in leaf) or "\0" in path:
            raise _refuse(path.replace("\0", "\\u0000"), "holds U+0000")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield f"{path}.{key}", None
            yield from _leaves(each, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _leaves(each, f"{path}[{index}]")
    else:
        yield path, value


def _find_number(struct: Struct, path: str) -> str:
    """Return the path of the first number that JSON cannot carry."""
    for key in sorted(struct.fields):
        found = _find_in_value(struct.fields[key], f"{path}.{key}")
        if found is not None:
            return found
    return path


def _find_in_value(value: Value, path: str) -> str | None:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return None if math.isfinite(value.number_value) else path
    if kind == "struct_value":
        found = _find_number(value.struct_value, path)
        return None if found == path else found
    if kind == "list_value":
        for index, each in enumerate(value.list_value.values):
            found_in_item = _find_in_value(each, f"{path}[{index}]")
            if found_in_item is not None:
                return found_in_item
    return None


def _refuse(path: str, description: str) -> errors.MeshError:
    return errors.invalid_argument(f"{path} {description}", errors.Violation(path, description))


def _too_large(field: str, size: int) -> errors.MeshError:
    return errors.invalid_argument(
        f"{field} has {size} bytes of JSON, more than {MAX_BYTES}",
        errors.Violation(field, f"is larger than {MAX_BYTES} bytes as JSON"),
        reason="PAYLOAD_TOO_LARGE",
        size=str(size),
        limit=str(MAX_BYTES),
    )
