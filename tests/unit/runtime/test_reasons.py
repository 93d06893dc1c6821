"""Every reason that the code gives is one that the contract publishes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

from workmesh import errors
from workmesh.common.v1.error_pb2 import ErrorReason

ROOT = Path(__file__).resolve().parents[3]
_FIRST_ARGUMENT = {
    "already_exists",
    "failed_precondition",
    "aborted",
    "permission_denied",
    "resource_exhausted",
    "unavailable",
}


def published() -> set[str]:
    return {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118 (no mapping)


def reasons(source: str) -> Iterator[str]:
    """Yield the literal reasons given to the constructors of errors in a module."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [each.value for each in node.keywords if each.arg == "reason"] if "Error" in name else []
        if name in _FIRST_ARGUMENT:
            given += node.args[:1]
        elif name == "MeshError":
            given += node.args[1:2]
        elif name == "invalid_argument":
            given += [each.value for each in node.keywords if each.arg == "reason"]
        yield from (
            each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)
        )


def test_every_reason_given_in_the_code_is_published() -> None:
    unknown = []
    seen = set()
    for package in ("workmesh", "services"):
        for path in (ROOT / package).rglob("*.py"):
            if {"v1", "external"} & set(path.parts):
                continue
            for reason in reasons(path.read_text(encoding="utf-8")):
                seen.add(reason)
                if reason not in published():
                    unknown.append(f"{path.relative_to(ROOT)}: {reason}")
    assert unknown == []
    assert "QUEUE_FULL" in seen


def test_reasons_made_from_kinds_and_codes_are_published() -> None:
    kinds = get_args(get_type_hints(errors.not_found)["kind"])
    assert {errors.not_found(kind, "x").reason for kind in kinds} <= published()
    assert set(errors._PLAIN_REASONS.values()) <= published()
    assert {errors.internal().reason, errors.unauthenticated("x").reason} <= published()


def test_an_unpublished_reason_would_be_found() -> None:
    source = 'raise errors.aborted("NO_SUCH", "x")\nMeshError(code, "NOR_THIS", "y")'
    assert list(reasons(source)) == ["NO_SUCH", "NOR_THIS"]
