"""From a call's arguments to the request that carries them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from services.toolhub.integrations import IDEMPOTENCY_KEY, Operation, ReadBack, Schema
from workmesh import errors, payload

_ROOT: Final = "arguments"
_SEGMENT: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_LITERAL_SAFE: Final = "/%:@!$&'()*+,;=~"
_MAX_URL_BYTES: Final = 8_000


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be sent: target with query, escaped, and the JSON body where there is one."""

    method: str
    target: str
    body: bytes | None
    idempotency_key: str = ""


def check_arguments(operation: Operation, data: bytes) -> dict[str, Any]:
    """Return the arguments; INVALID_ARGUMENT unless they are a JSON object that matches the schema."""
    value = payload.load_json(data, field=_ROOT) if data else {}
    if not isinstance(value, dict):
        raise errors.invalid_argument(
            "the arguments are not a JSON object", errors.Violation(_ROOT, "is not a JSON object")
        )
    if operation.input is not None:
        operation.input.compiled.check(value)
    return value


def build_request(operation: Operation, arguments: Mapping[str, Any], idempotency_key: str = "") -> Request:
    """Return the request of a call.

    Arguments that the path names go into it, URL-escaped; the others become the query of a GET, else the
    JSON body. INVALID_ARGUMENT when an argument does not fit its place.
    """
    literals, names = _template(operation.path)
    target = literals[0]
    for name, literal in zip(names, literals[1:], strict=True):
        target += _segment(name, arguments.get(name)) + literal
    rest = {name: value for name, value in arguments.items() if name not in names}
    body: bytes | None = None
    if operation.method == "GET":
        target += _query(rest)
    elif rest or operation.method != "DELETE":
        body = orjson.dumps(rest)
    if len(target) > _MAX_URL_BYTES:
        raise _unfit(_ROOT, f"make a URL of more than {_MAX_URL_BYTES} bytes")
    return Request(operation.method, target, body, idempotency_key)


def read_back_arguments(
    read_back: ReadBack, reader: Operation, arguments: Mapping[str, Any], idempotency_key: str
) -> dict[str, Any]:
    """Return the arguments with which to look for the effect of a call; what is not there is left out."""
    if not read_back.arguments:
        known = property_names(reader.input) | frozenset(_template(reader.path)[1])
        return {name: value for name, value in arguments.items() if name in known}
    chosen = {
        name: idempotency_key if path == IDEMPOTENCY_KEY else at_path(arguments, path)
        for name, path in read_back.arguments.items()
    }
    return {name: value for name, value in chosen.items() if value is not None}


def at_path(value: Any, path: str) -> Any:
    """Return what stands at a dotted path (`order.items.0`); None when nothing does."""
    for part in path.split(".") if path else ():
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isascii() and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def path_names(path: str) -> tuple[str, ...]:
    """Return the arguments that a path names; ValueError for braces that name none, or the same twice."""
    literals, names = _template(path)
    if any("{" in literal or "}" in literal for literal in literals):
        raise ValueError("has braces that hold no argument's name")
    if len(set(names)) < len(names):
        raise ValueError("names an argument twice")
    return names


def property_names(schema: Schema | None) -> frozenset[str]:
    """Return the names of the properties that a schema lists."""
    document: Any = orjson.loads(schema.json) if schema is not None else {}
    listed = document.get("properties")
    return frozenset(listed) if isinstance(listed, dict) else frozenset()


@lru_cache(maxsize=4_096)
def _template(path: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    parts = _SEGMENT.split(path)
    return tuple(_escape_literal(part) for part in parts[::2]), tuple(parts[1::2])


def _escape_literal(text: str) -> str:
    # Braces are kept for `path_names` to find.
    return quote(text, safe=_LITERAL_SAFE + "{}")


def _segment(name: str, value: Any) -> str:
    text = _scalar(value)
    if text is None:
        missing = value is None
        raise _unfit(f"{_ROOT}.{name}", "is missing" if missing else "is no text or number")
    if text in {"", ".", ".."}:
        # Those would lead to another resource than the one that was meant.
        raise _unfit(f"{_ROOT}.{name}", f"is {text!r}, which cannot stand in a path")
    return quote(text, safe="")


def _query(rest: Mapping[str, Any]) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in rest.items():
        for each in value if isinstance(value, list) else (value,):
            text = _scalar(each)
            if text is not None:
                pairs.append((name, text))
            elif each is not None:
                raise _unfit(f"{_ROOT}.{name}", "is no text, number or list of them to stand in a query")
    return f"?{urlencode(pairs, quote_via=quote)}" if pairs else ""


def _scalar(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return orjson.dumps(value).decode()
    return None


def _unfit(field: str, description: str) -> errors.MeshError:
    return errors.invalid_argument(
        f"{field} {description}", errors.Violation(field, description), reason="SCHEMA_MISMATCH"
    )
