"""Reading a configuration document field by field, collecting every mistake with its path."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

from workmesh.config import ConfigError

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MARKED: Final = re.compile("\ue000([^\ue001]*)\ue001")

REQUIRED: Final[Any] = object()
"""Default of a field that has none."""


class _Loader(yaml.SafeLoader):
    """YAML in which the same key twice in one mapping is a mistake, not a silent loss."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    merged = "tag:yaml.org,2002:merge"
    own = [key for key, _ in node.value if key.tag != merged]
    keys = [loader.construct_object(key, deep=True) for key in own]
    for index, key in enumerate(keys):
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is not text", own[index].start_mark
            )
        if key in keys[:index]:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice in one mapping", own[index].start_mark
            )
    return loader.construct_mapping(node, deep=True)


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return _MARKED.sub(r"${\1}", str(loader.construct_scalar(node)))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG, _construct_text)


def parse_yaml(text: str, source: str) -> Any:
    """Return the document; ConfigError names the line that is no YAML."""
    # Braces would end a plain text within {…}, so variables pass the parser in another dress.
    marked = _VARIABLE.sub("\ue000\\1\ue001", text)
    try:
        return yaml.load(marked, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        problem = getattr(error, "problem", None) or "is not YAML"
        raise ConfigError([f"{where}: {problem}"]) from None


class Fields:
    """One mapping of a document.

    A wrong field is noted in `problems` and answered with a harmless value, so that reading goes on and
    finds the next mistake. `${NAME}` in a text is replaced from `environ`. Messages quote what the document
    says, never what the environment holds.
    """

    def __init__(self, value: object, path: str, problems: list[str], environ: Mapping[str, str]) -> None:
        self.path = path
        self.problems = problems
        self.environ = environ
        self._seen: set[str] = set()
        self._values: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            self._values = value
        else:
            problems.append(f"{path} is not a mapping")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def names(self) -> tuple[str, ...]:
        """Return the names of the fields that are there."""
        return tuple(self._values)

    def problem(self, key: str, text: str) -> None:
        """Note a mistake in a field."""
        self.problems.append(f"{self.path}.{key} {text}" if key else f"{self.path} {text}")

    def raw(self, key: str, default: Any = REQUIRED) -> Any:
        """Return a field as it stands."""
        self._seen.add(key)
        if key in self._values:
            return self._values[key]
        if default is REQUIRED:
            self.problem(key, "is missing")
            return None
        return default

    def text(self, key: str, default: str = REQUIRED, *, pattern: str = "", meaning: str = "") -> str:
        """Return a text, its variables replaced; `meaning` says what a text of the pattern is."""
        value = self.raw(key, default)
        if value is None or value is default:
            return value or ""
        if not isinstance(value, str):
            self.problem(key, f"is {value!r}, not a text")
            return ""
        replaced = self._replace(key, value)
        if pattern and replaced is not None and re.fullmatch(pattern, replaced) is None:
            self.problem(key, f"is {value!r}, not {meaning}")
            return ""
        return replaced or ""

    def choice(self, key: str, choices: Sequence[str], default: str = REQUIRED) -> str:
        """Return one of the choices; the first of them after a mistake."""
        text = self.text(key, default)
        if text in choices:
            return text
        if key in self._values:
            self.problem(key, f"is {self._values[key]!r}, not one of {', '.join(choices)}")
        return choices[0]

    def integer(self, key: str, default: int, *, minimum: int, maximum: int) -> int:
        """Return a whole number within bounds."""
        value = self._scalar(key, default)
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(key, f"is {self._values[key]!r}, not a whole number")
            return default
        return int(self._within(key, value, default, minimum, maximum))

    def number(self, key: str, default: float, *, minimum: float, maximum: float) -> float:
        """Return a number within bounds."""
        value = self._scalar(key, default)
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            self.problem(key, f"is {self._values[key]!r}, not a number")
            return default
        return self._within(key, number, default, minimum, maximum)

    def duration(self, key: str, default: float, *, minimum: float, maximum: float) -> float:
        """Return seconds, written as `5s`, `250ms`, `2m`, `1h` or a number of seconds."""
        value = self._scalar(key, default)
        match = None if isinstance(value, bool) else _DURATION.fullmatch(str(value))
        if match is None:
            self.problem(key, f"is {self._values[key]!r}, not a duration like 5s or 250ms")
            return default
        return self._within(key, float(match[1]) * _UNITS[match[2]], default, minimum, maximum)

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.raw(key, default)
        if isinstance(value, bool):
            return value
        self.problem(key, f"is {value!r}, not true or false")
        return default

    def child(self, key: str) -> Fields:
        """Return the mapping in a field; an empty one when the field is absent."""
        return Fields(self.raw(key, {}), f"{self.path}.{key}", self.problems, self.environ)

    def children(self, key: str) -> list[tuple[str, Fields]]:
        """Return the named mappings in a field, in their order."""
        inner = self.child(key)
        return [
            (name, Fields(value, f"{inner.path}.{name}", self.problems, self.environ))
            for name, value in inner._values.items()
        ]

    def close(self) -> None:
        """Refuse the fields that nobody asked for."""
        for key in self._values:
            if key not in self._seen:
                known = ", ".join(sorted(self._seen))
                self.problem(key, f"is not known here; known: {known}")

    def _scalar(self, key: str, default: object) -> Any:
        value = self.raw(key, default)
        if not isinstance(value, str):
            return value
        replaced = self._replace(key, value)
        return default if replaced is None else replaced

    def _replace(self, key: str, text: str) -> str | None:
        """Put the environment's values in; None when a variable is not set."""
        missing = [name for name in _VARIABLE.findall(text) if name not in self.environ]
        for name in missing:
            self.problem(key, f"names the variable {name}, which is not set")
        return None if missing else _VARIABLE.sub(lambda match: self.environ[match[1]], text)

    def _within(self, key: str, value: float, default: float, minimum: float, maximum: float) -> float:
        if minimum <= value <= maximum:
            return value
        self.problem(key, f"is {self._values.get(key, value)!r}, outside {minimum:g} to {maximum:g}")
        return default
