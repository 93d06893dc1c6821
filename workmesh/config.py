"""Settings: one frozen dataclass a service, read from the environment once."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_type_hints

T = TypeVar("T")
Config = TypeVar("Config")

_SETTING: Final = "workmesh_setting"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final[Any] = _Required()
"""Default of a setting that has none: it must be set."""


class ConfigError(Exception):
    """Everything that is wrong with the settings, one sentence a problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True, slots=True)
class _Setting:
    help: str
    shared: bool
    secret: bool
    minimum: float | None
    maximum: float | None
    choices: tuple[object, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Variable:
    """One setting as a person sees it: the variable's name, its default as text and its meaning."""

    name: str
    default: str
    help: str


def setting(
    default: T,
    help: str,
    *,
    shared: bool = False,
    secret: bool = False,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[T, ...] = (),
) -> T:
    """Declare a field of a settings dataclass.

    `WORKMESH_<SERVICE>_<FIELD>` sets it, or `WORKMESH_<FIELD>` when it is shared by services. A secret is
    never printed and may come from the file that `<variable>_FILE` names. REQUIRED as default means that it
    must be set.
    """
    meta = {_SETTING: _Setting(help, shared, secret, minimum, maximum, choices)}
    if default is REQUIRED:
        return cast(T, dataclasses.field(kw_only=True, repr=not secret, metadata=meta))
    return dataclasses.field(default=default, repr=not secret, metadata=meta)


def load(cls: type[Config], service: str, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the settings of a service; ConfigError lists everything that is missing or wrong."""
    types = get_type_hints(cls)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in _fields(cls):
        name = _variable(field, service)
        try:
            text = _read(field, name, environ)
            if text is not None:
                values[field.name] = _convert(text, types[field.name], field.metadata[_SETTING])
            elif field.default is dataclasses.MISSING:
                raise ValueError("is required and not set")
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise ConfigError(problems)
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError([str(error)]) from None


def describe(cls: type[Any], service: str) -> list[Variable]:
    """List the settings of a service in the order of their declaration."""
    return [
        Variable(_variable(field, service), _default_text(field), field.metadata[_SETTING].help)
        for field in _fields(cls)
    ]


def parse_command_line(
    cls: type[Config],
    service: str,
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Return the settings, or print them all and exit for --help; exit 2 with every problem on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(_help(cls, service))
        raise SystemExit(0)
    if arguments:
        sys.stderr.write(
            f"unknown argument {arguments[0]!r}: settings are environment variables, see --help\n"
        )
        raise SystemExit(2)
    try:
        return load(cls, service, environ)
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"{problem}\n")
        raise SystemExit(2) from None


def _help(cls: type[Any], service: str) -> str:
    lines = [f"usage: python -m services.{service}", "", "Settings, read from the environment:", ""]
    for variable in describe(cls, service):
        lines += [f"  {variable.name} ({variable.default})", f"      {variable.help}"]
    return "\n".join(lines) + "\n"


def _fields(cls: type[Any]) -> Iterator[dataclasses.Field[Any]]:
    return (field for field in dataclasses.fields(cls) if _SETTING in field.metadata)


def _variable(field: dataclasses.Field[Any], service: str) -> str:
    scope = "" if field.metadata[_SETTING].shared else f"{service}_"
    return f"WORKMESH_{scope}{field.name}".upper()


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.metadata[_SETTING].secret:
        return "secret"
    if isinstance(field.default, tuple):
        return f'default "{",".join(map(str, field.default))}"'
    return f'default "{field.default}"'


def _read(field: dataclasses.Field[Any], name: str, environ: Mapping[str, str]) -> str | None:
    text = environ.get(name)
    if text is None and field.metadata[_SETTING].secret and (path := environ.get(f"{name}_FILE")):
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ValueError(f"cannot be read from its file: {error.strerror}") from None
    # An empty variable is how shells and manifests say "not set" to anything but a text.
    return None if text == "" and not isinstance(field.default, str) else text


def _convert(text: str, kind: Any, spec: _Setting) -> Any:
    converter = _CONVERTERS.get(kind)
    if converter is None:
        raise TypeError(f"a setting cannot be of type {kind}")
    try:
        value = converter(text)
    except ValueError as error:
        # A secret's text must not reach a terminal or a log by way of an error message.
        raise ValueError("is malformed" if spec.secret else str(error)) from None
    if spec.minimum is not None and value < spec.minimum:
        raise ValueError(f"is {value}, less than {spec.minimum:g}")
    if spec.maximum is not None and value > spec.maximum:
        raise ValueError(f"is {value}, more than {spec.maximum:g}")
    if spec.choices and value not in spec.choices:
        raise ValueError(f"is {text!r}, not one of {', '.join(map(str, spec.choices))}")
    return value


def _to_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"is {text!r}, not a whole number") from None


def _to_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"is {text!r}, not a number")
    return value


def _to_bool(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(f"is {text!r}, not true or false")


def _to_tuple(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


_CONVERTERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    str: str,
    int: _to_int,
    float: _to_float,
    bool: _to_bool,
    Path: Path,
    tuple[str, ...]: _to_tuple,
}
