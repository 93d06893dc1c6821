"""Collects what is wrong with one item of a batch."""

from __future__ import annotations

from typing import Final

import orjson

from workmesh.chain import HASH_BYTES
from workmesh.errors import MeshError, Violation, invalid_argument
from workmesh.ids import is_name, is_uuid

BODY_BYTES: Final = 1 << 20
NAME_RULE: Final = "must match [a-z0-9][a-z0-9-]{0,62}"


class Faults:
    """Violations of one item, whose path in the request they begin with."""

    __slots__ = ("found", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self.found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Note a wrong field."""
        path = f"{self.path}.{field}" if self.path else field
        self.found.append(Violation(path, description))

    def text(self, value: str, field: str, most: int, *, least: int = 1) -> None:
        """A text of so many characters, none of them U+0000."""
        if not least <= len(value) <= most:
            self.add(field, f"must have {least} to {most} characters")
        elif "\0" in value:
            self.add(field, "must not contain U+0000")

    def id(self, value: str, field: str) -> None:
        """A UUID."""
        if not is_uuid(value):
            self.add(field, "must be a UUID")

    def name(self, value: str, field: str) -> None:
        """A name of a client, agent, pool or integration."""
        if not is_name(value):
            self.add(field, NAME_RULE)

    def least(self, value: int, least: int, field: str) -> None:
        """A number not below another."""
        if value < least:
            self.add(field, f"must be at least {least}")

    def digest(self, value: bytes, field: str) -> None:
        """A SHA-256."""
        if len(value) != HASH_BYTES:
            self.add(field, f"must have {HASH_BYTES} bytes")

    def json(self, body: bytes, field: str, most: int, *, object_only: bool = False) -> None:
        """JSON of at most so many bytes."""
        if len(body) > most:
            self.add(field, f"must have at most {most} bytes")
            return
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            self.add(field, "must be JSON")
            return
        if object_only and not isinstance(value, dict):
            self.add(field, "must be a JSON object")


def refused(found: list[Violation]) -> MeshError:
    """Return the status of an item in which something is wrong."""
    return invalid_argument(f"{found[0].field} {found[0].description}", *found)
