"""What requests of the read service must look like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from workmesh import errors
from workmesh.common.v1.job_pb2 import JobState, Lane
from workmesh.ids import is_name, is_uuid

MAX_KEY_LENGTH: Final = 256
MAX_LABELS: Final = 32

_MAX_LABEL_KEY: Final = 63
_MAX_LABEL_VALUE: Final = 256


class Checks:
    """Collects what is wrong with one request."""

    def __init__(self) -> None:
        self._violations: list[errors.Violation] = []

    def done(self) -> None:
        """Raise INVALID_ARGUMENT with every violation found."""
        if self._violations:
            fields = ", ".join(dict.fromkeys(each.field for each in self._violations))
            raise errors.invalid_argument(f"the request is invalid: {fields}", *self._violations)

    def require(self, holds: bool, field: str, description: str) -> None:
        """Add a violation unless the condition holds."""
        if not holds:
            self._violations.append(errors.Violation(field, description))

    def count(self, number: int, field: str, most: int) -> None:
        """A list of 1 to `most` items."""
        self.require(1 <= number <= most, field, f"must have 1 to {most} items, has {number}")

    def job_ids(self, values: Iterable[str]) -> None:
        for index, value in enumerate(values):
            if not is_uuid(value):
                self.job_id(value, f"job_ids[{index}]")

    def job_id(self, value: str, field: str = "job_id") -> None:
        self.require(is_uuid(value), field, "is not a UUID in lowercase with dashes")

    def name(self, value: str, field: str) -> None:
        self.require(is_name(value), field, "does not match [a-z0-9][a-z0-9-]{0,62}")

    def name_or_empty(self, value: str, field: str) -> None:
        if value:
            self.name(value, field)

    def key(self, value: str, field: str) -> None:
        fits = 1 <= len(value) <= MAX_KEY_LENGTH
        self.require(fits, field, f"must have 1 to {MAX_KEY_LENGTH} characters")
        self.require("\0" not in value, field, "holds U+0000")

    def not_negative(self, value: int, field: str) -> None:
        self.require(value >= 0, field, "is negative")

    def states(self, values: Iterable[int]) -> None:
        known = set(JobState.values()) - {JobState.JOB_STATE_UNSPECIFIED}
        for index, value in enumerate(values):
            self.require(value in known, f"states[{index}]", f"{value} is not a job state")

    def lane(self, value: int) -> None:
        self.require(value in Lane.values(), "lane", f"{value} is not a lane")

    def labels(self, labels: Mapping[str, str]) -> None:
        self.require(len(labels) <= MAX_LABELS, "labels", f"has more than {MAX_LABELS} entries")
        for key, value in labels.items():
            fits = len(key) <= _MAX_LABEL_KEY and len(value) <= _MAX_LABEL_VALUE
            field = f"labels[{key!r}]"
            self.require(fits, field, f"is longer than {_MAX_LABEL_KEY} or its value than {_MAX_LABEL_VALUE}")
            self.require("\0" not in key and "\0" not in value, field, "holds U+0000")
