"""JSON Schema (2020-12) compiled once and asked often."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import jsonschema_rs
import orjson

from workmesh import errors

MAX_VIOLATIONS: Final = 20
_MAX_DESCRIPTION = 200


class CompiledSchema:
    """A schema ready to judge values; safe against schemas that would fetch, or backtrack without end.

    References must stay within the schema, and patterns are matched by an engine of linear time (so without
    look-around and back-references). Raises INVALID_ARGUMENT when the schema is none.
    """

    def __init__(self, schema_json: bytes, *, field: str = "schema", root: str = "input") -> None:
        self._root = root
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                orjson.loads(schema_json),
                pattern_options=jsonschema_rs.RegexOptions(),
                retriever=_refuse_to_fetch,
            )
        except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
            raise errors.invalid_argument(
                f"{field} is not a usable JSON Schema",
                errors.Violation(field, _cut(str(error))),
            ) from None

    def validate(self, value: Any) -> list[errors.Violation]:
        """Return what is wrong with a value, at most MAX_VIOLATIONS; empty when it matches."""
        if self._validator.is_valid(value):
            return []
        found = []
        for error in self._validator.iter_errors(value):
            found.append(errors.Violation(_path(self._root, error.instance_path), _cut(error.message)))
            if len(found) == MAX_VIOLATIONS:
                break
        return found

    def check(self, value: Any) -> None:
        """Raise INVALID_ARGUMENT SCHEMA_MISMATCH with the violations unless the value matches."""
        violations = self.validate(value)
        if violations:
            raise errors.invalid_argument(
                f"{self._root} does not match the schema", *violations, reason="SCHEMA_MISMATCH"
            )


def _refuse_to_fetch(uri: str) -> NoReturn:
    raise ValueError(f"a schema may not refer to {uri}")


def _path(root: str, parts: list[str | int]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_DESCRIPTION else line[: _MAX_DESCRIPTION - 1] + "…"
