"""What can be wrong with a booking or a document, as reasons a machine can act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a booking or a document was refused."""

    SYNTAX_ERROR = "SYNTAX_ERROR"
    UNSUPPORTED_MESSAGE = "UNSUPPORTED_MESSAGE"
    MISSING_SEGMENT = "MISSING_SEGMENT"
    UNEXPECTED_SEGMENT = "UNEXPECTED_SEGMENT"
    SEGMENT_COUNT_MISMATCH = "SEGMENT_COUNT_MISMATCH"
    MESSAGE_COUNT_MISMATCH = "MESSAGE_COUNT_MISMATCH"
    REFERENCE_MISMATCH = "REFERENCE_MISMATCH"
    MISSING_FIELD = "MISSING_FIELD"
    INVALID_FIELD = "INVALID_FIELD"
    INVALID_CONTAINER = "INVALID_CONTAINER"
    INVALID_VESSEL = "INVALID_VESSEL"
    INVALID_WEIGHT = "INVALID_WEIGHT"
    INVALID_DATE = "INVALID_DATE"
    UNKNOWN_LOCATION = "UNKNOWN_LOCATION"
    UNKNOWN_EQUIPMENT_TYPE = "UNKNOWN_EQUIPMENT_TYPE"
    UNKNOWN_STATUS_CODE = "UNKNOWN_STATUS_CODE"
    SAME_LOCATION = "SAME_LOCATION"
    EQUIPMENT_COUNT_MISMATCH = "EQUIPMENT_COUNT_MISMATCH"
    WEIGHT_MISMATCH = "WEIGHT_MISMATCH"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: the reason, one sentence, and where (a segment such as `EQD[14]`, or a field path)."""

    reason: Reason
    message: str
    where: str

    def __str__(self) -> str:
        return f"{self.reason} at {self.where}: {self.message}"
