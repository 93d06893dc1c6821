"""From the YAML document of integrations to plain values; every mistake is reported with its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import orjson

from services.toolhub.arguments import path_names, property_names
from services.toolhub.fields import Fields, parse_yaml
from services.toolhub.integrations import (
    IDEMPOTENCY_KEY,
    Bounds,
    Effect,
    Integration,
    Kind,
    Operation,
    ReadBack,
    RetryPolicy,
    Schema,
    Timeouts,
)
from services.toolhub.secret import Secret
from workmesh.config import ConfigError
from workmesh.errors import MeshError
from workmesh.ids import NAME_PATTERN
from workmesh.schema import CompiledSchema

_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
_KINDS: Final = tuple(kind.value for kind in Kind)
_EFFECTS: Final = tuple(effect.value for effect in Effect)
_OPERATION: Final = r"[a-z0-9][a-z0-9_-]{0,62}"
_HEADER: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}"
_RESERVED_HEADERS: Final = frozenset(
    {"host", "content-length", "content-type", "transfer-encoding", "connection", "idempotency-key", "accept"}
)
_DOTTED: Final = r"[^.\s]+(\.[^.\s]+)*"
_SAFE_PATH: Final = r"/[^\s?#\\]*"


def load_integrations(path: Path, environ: Mapping[str, str]) -> dict[str, Integration]:
    """Return the integrations of a file by name; ConfigError lists every mistake in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from None
    return read_integrations(text, environ, source=str(path))


def read_integrations(
    text: str, environ: Mapping[str, str], *, source: str = "integrations.yaml"
) -> dict[str, Integration]:
    """Return the integrations of a document `integrations: [{name: …, kind: …}, …]` by name.

    `${NAME}` in a text stands for an environment variable. ConfigError lists every mistake with its path.
    """
    problems: list[str] = []
    document = Fields(parse_yaml(text, source), source, problems, environ)
    listed = document.raw("integrations")
    document.close()
    found: dict[str, Integration] = {}
    if not isinstance(listed, list):
        document.problem("integrations", "is not a list")
        listed = []
    for index, value in enumerate(listed):
        fields = Fields(value, f"integrations[{index}]", problems, environ)
        integration = _integration(fields)
        if integration.name in found:
            fields.problem("name", f"{integration.name!r} stands twice")
        found[integration.name] = integration
    if problems:
        raise ConfigError(problems)
    return found


def _integration(fields: Fields) -> Integration:
    name = fields.text("name", pattern=NAME_PATTERN, meaning=f"a name ({NAME_PATTERN})")
    kind = Kind(fields.choice("kind", _KINDS))
    integration = _http(fields, name) if kind is Kind.HTTP else _noop(fields, name)
    fields.close()
    return integration


def _noop(fields: Fields, name: str) -> Integration:
    return Integration(name, Kind.NOOP, _operations(fields, Kind.NOOP))


def _http(fields: Fields, name: str) -> Integration:
    operations = _operations(fields, Kind.HTTP)
    _check_read_backs(fields, operations)
    return Integration(
        name,
        Kind.HTTP,
        operations,
        address=_address(fields),
        secret=_secret(fields.child("secret")) if "secret" in fields else None,
        connections=fields.integer("connections", 20, minimum=1, maximum=1_000),
        bounds=_bounds(fields.child("bulkhead")),
        timeouts=_timeouts(fields.child("timeout")),
        retry=_retry(fields.child("retry")),
        settle_delay=fields.duration("settle_delay", 2.0, minimum=0.0, maximum=300.0),
    )


def _bounds(fields: Fields) -> Bounds:
    bounds = Bounds(
        running=fields.integer("running", 64, minimum=1, maximum=10_000),
        waiting=fields.integer("waiting", 256, minimum=0, maximum=100_000),
    )
    fields.close()
    return bounds


def _timeouts(fields: Fields) -> Timeouts:
    total = fields.duration("total", 15.0, minimum=0.05, maximum=3_600.0)
    per_try = fields.duration("try", min(5.0, total), minimum=0.05, maximum=3_600.0)
    fields.close()
    if per_try > total:
        fields.problem("try", "is longer than total")
    return Timeouts(per_try, total)


def _retry(fields: Fields) -> RetryPolicy:
    policy = RetryPolicy(
        max_tries=fields.integer("max_tries", 3, minimum=1, maximum=10),
        initial_delay=fields.duration("initial_delay", 0.1, minimum=0.001, maximum=60.0),
        multiplier=fields.number("multiplier", 2.0, minimum=1.0, maximum=10.0),
        max_delay=fields.duration("max_delay", 2.0, minimum=0.001, maximum=300.0),
    )
    fields.close()
    return policy


def _address(fields: Fields) -> str:
    address = fields.text("address")
    try:
        parts = urlsplit(address)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
        parts = urlsplit("")
    # The text itself is not quoted: what stands in the wrong place may well be a secret.
    if address and (not valid or re.search(r"\s", address)):
        fields.problem("address", "is not an address like https://host:port/base")
    elif parts.username is not None or parts.password is not None:
        fields.problem("address", "holds credentials; they belong under secret")
    elif parts.query or parts.fragment:
        fields.problem("address", "holds a query or fragment")
    return address.rstrip("/")


def _secret(fields: Fields) -> Secret:
    header = fields.text("header", "Authorization", pattern=_HEADER, meaning="a header's name")
    scheme = fields.text("scheme", "Bearer", pattern=r"[A-Za-z0-9-]*", meaning="a scheme like Bearer")
    if header.lower() in _RESERVED_HEADERS:
        fields.problem("header", f"{header!r} has another meaning")
    value = _secret_value(fields)
    fields.close()
    return Secret(value, header=header, scheme=scheme)


def _secret_value(fields: Fields) -> str:
    if ("env" in fields) == ("file" in fields):
        fields.raw("env", None)
        fields.raw("file", None)
        fields.problem("", "names either env or file")
        return "none"
    if "env" in fields:
        where, variable = "env", fields.text("env")
        value = fields.environ.get(variable, "")
        if variable and not value:
            fields.problem("env", f"names the variable {variable}, which is not set")
    else:
        where, value = "file", _secret_file(fields)
    if value and (not value.isprintable() or not value.isascii()):
        fields.problem(where, "leads to a secret that holds characters no header may hold")
    elif value and len(value) < 4:
        fields.problem(where, "leads to a secret of less than 4 characters")
    return value or "none"


def _secret_file(fields: Fields) -> str:
    path = fields.text("file")
    try:
        value = Path(path).read_text(encoding="utf-8").strip() if path else ""
    except (OSError, UnicodeDecodeError) as error:
        fields.problem("file", f"cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}")
        return ""
    if path and not value:
        fields.problem("file", "leads to an empty file")
    return value


def _operations(fields: Fields, kind: Kind) -> dict[str, Operation]:
    operations: dict[str, Operation] = {}
    for name, each in fields.children("operations"):
        if re.fullmatch(_OPERATION, name) is None:
            each.problem("", f"is no name of an operation ({_OPERATION})")
        operations[name] = _operation(each, name, kind)
        each.close()
    if not operations:
        fields.problem("operations", "lists none")
    return operations


def _operation(fields: Fields, name: str, kind: Kind) -> Operation:
    effect = Effect(fields.choice("effect", _EFFECTS))
    description = fields.text("description", "")
    input_, output = _schema(fields, "input", "arguments"), _schema(fields, "output", "result")
    if kind is Kind.NOOP:
        return Operation(name, effect, description, input=input_, output=output)
    path = fields.text("path", pattern=_SAFE_PATH, meaning="a path like /orders/{reference}")
    _check_path(fields, path, input_)
    return Operation(
        name,
        effect,
        description,
        method=fields.choice("method", _METHODS),
        path=path,
        input=input_,
        output=output,
        read_back=_read_back(fields, effect) if "read_back" in fields else None,
    )


def _schema(fields: Fields, key: str, root: str) -> Schema | None:
    value = fields.raw(key, None)
    if value is None:
        return None
    if not isinstance(value, dict):
        fields.problem(key, "is not a JSON Schema: a mapping")
        return None
    try:
        data = orjson.dumps(value)
        return Schema(data, CompiledSchema(data, field=key, root=root))
    except (MeshError, orjson.JSONEncodeError) as error:
        violations = error.violations if isinstance(error, MeshError) else ()
        listed = "; ".join(each.description for each in violations)
        fields.problem(key, f"is not a usable JSON Schema: {listed or error}")
        return None


def _check_path(fields: Fields, path: str, schema: Schema | None) -> None:
    try:
        names = path_names(path)
    except ValueError as error:
        fields.problem("path", str(error))
        return
    known = property_names(schema)
    for name in names:
        if known and name not in known:
            fields.problem("path", f"names {name!r}, which is not among the input's properties")


def _read_back(fields: Fields, effect: Effect) -> ReadBack:
    inner = fields.child("read_back")
    if effect is not Effect.UNSAFE:
        inner.problem("", "belongs to unsafe operations only")
    arguments = inner.child("arguments")
    meaning = f"a dotted path into the arguments, or {IDEMPOTENCY_KEY}"
    mapping = {name: arguments.text(name, pattern=_DOTTED, meaning=meaning) for name in arguments.names()}
    read_back = ReadBack(
        operation=inner.text("operation"),
        authoritative=inner.flag("authoritative", False),
        arguments=mapping,
        result=inner.text("result", "", pattern=_DOTTED, meaning="a dotted path into the answer"),
    )
    inner.close()
    return read_back


def _check_read_backs(fields: Fields, operations: Mapping[str, Operation]) -> None:
    for operation in operations.values():
        if operation.read_back is None or not operation.read_back.operation:
            continue
        where = f"operations.{operation.name}.read_back.operation"
        reader = operations.get(operation.read_back.operation)
        if reader is None:
            fields.problem(where, f"names {operation.read_back.operation!r}, which is no operation here")
        elif reader.effect is not Effect.READ:
            fields.problem(where, f"names {reader.name!r}, which is not of effect read")
