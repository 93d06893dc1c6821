"""Ways to spoil a good document: each breaks one thing and names the reason that a reader must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from pydifact.segments import Segment

from examples.freight.formats.faults import Reason
from examples.freight.formats.writing import serialize
from examples.freight.parties import DENIED

Spoil = Callable[[list[Segment], Random], None]


@dataclass(frozen=True, slots=True)
class DocumentFault:
    """A fault, the reason it must be refused for, and how to make it (in place, on the segments)."""

    name: str
    reason: str
    spoil: Spoil
    of_instruction_only: bool = False
    of_status_only: bool = False


def write(segments: list[Segment], fault: DocumentFault | None, random: Random) -> str:
    """Returns the interchange text, spoiled by the fault if there is one."""
    if fault is not None:
        fault.spoil(segments, random)
    text = serialize(segments)
    return text[: text.rindex("'")] if fault is not None and fault.name == "truncated_text" else text


def _find(segments: list[Segment], tag: str, qualifier: str = "") -> Segment:
    for segment in segments:
        first = segment.elements[0]
        if segment.tag == tag and (not qualifier or qualifier in (first, first[0])):
            return segment
    raise LookupError(f"no {tag}+{qualifier}")


def _drop(segments: list[Segment], victim: Segment) -> None:
    segments[:] = [segment for segment in segments if segment is not victim]
    unt = _find(segments, "UNT")
    unt[0] = str(int(str(unt[0])) - 1)


def _set(segment: Segment, element: int, component: int, value: str) -> None:
    parts = segment.elements[element]
    if isinstance(parts, str):
        segment[element] = value
    else:
        parts[component] = value


def _container_check_digit(segments: list[Segment], random: Random) -> None:
    eqd = random.choice([segment for segment in segments if segment.tag == "EQD"])
    number = str(eqd[1])
    eqd[1] = number[:-1] + str((int(number[-1]) + random.randint(1, 9)) % 10)


def _container_form(segments: list[Segment], _: Random) -> None:
    eqd = _find(segments, "EQD")
    eqd[1] = "X" + str(eqd[1])[1:10]


def _vessel_check_digit(segments: list[Segment], _: Random) -> None:
    voyage = _find(segments, "TDT")
    number = voyage.elements[7][0]
    _set(voyage, 7, 0, number[:-1] + str((int(number[-1]) + 3) % 10))


def _unknown_location(segments: list[Segment], random: Random) -> None:
    location = random.choice([segment for segment in segments if segment.tag == "LOC"])
    _set(location, 1, 0, random.choice(["XXROT", "NL1TM", "DEZZZ", "QQQQQ"]))


def _missing_voyage(segments: list[Segment], _: Random) -> None:
    _drop(segments, _find(segments, "TDT"))


def _missing_reference(segments: list[Segment], _: Random) -> None:
    _drop(segments, _find(segments, "RFF", "BN"))


def _missing_trailer(segments: list[Segment], _: Random) -> None:
    segments[:] = [segment for segment in segments if segment.tag != "UNZ"]


def _segment_count(segments: list[Segment], random: Random) -> None:
    unt = _find(segments, "UNT")
    unt[0] = str(int(str(unt[0])) + random.choice([-2, -1, 1, 7]))


def _message_reference(segments: list[Segment], _: Random) -> None:
    unt = _find(segments, "UNT")
    unt[1] = f"{unt[1]}X"


def _interchange_reference(segments: list[Segment], _: Random) -> None:
    unz = _find(segments, "UNZ")
    unz[1] = f"{unz[1]}X"


def _issue_date(segments: list[Segment], random: Random) -> None:
    _set(
        _find(segments, "DTM", "137"),
        0,
        1,
        random.choice(["202602300900", "202613010900", "2026120109", "20261201O900"]),
    )


def _status_code(segments: list[Segment], random: Random) -> None:
    _set(_find(segments, "STS"), 1, 0, random.choice(["ZZ", "XQ", "99"]))


def _equipment_count(segments: list[Segment], _: Random) -> None:
    total = _find(segments, "CNT", "16")
    _set(total, 0, 1, str(int(str(total.elements[0][1])) + 1))


def _weight_total(segments: list[Segment], _: Random) -> None:
    _set(_find(segments, "CNT", "7"), 0, 1, "1")


def _equipment_type(segments: list[Segment], _: Random) -> None:
    _set(_find(segments, "EQD"), 2, 0, "99Z9")


def _directory(segments: list[Segment], _: Random) -> None:
    _set(_find(segments, "UNH"), 1, 2, "01B")


def _denied_party(segments: list[Segment], random: Random) -> None:
    _find(segments, "NAD", "CN")[3] = random.choice(DENIED)


def _nothing(_: list[Segment], __: Random) -> None:
    """The text itself is cut after it is written."""


FAULTS: Final[tuple[DocumentFault, ...]] = (
    DocumentFault("container_check_digit", Reason.INVALID_CONTAINER, _container_check_digit),
    DocumentFault("unknown_location", Reason.UNKNOWN_LOCATION, _unknown_location),
    DocumentFault("missing_voyage", Reason.MISSING_SEGMENT, _missing_voyage),
    DocumentFault("segment_count", Reason.SEGMENT_COUNT_MISMATCH, _segment_count),
    DocumentFault("issue_date", Reason.INVALID_DATE, _issue_date),
    DocumentFault("status_code", Reason.UNKNOWN_STATUS_CODE, _status_code, of_status_only=True),
    DocumentFault("denied_party", "CUSTOMS_REJECTED", _denied_party),
    DocumentFault("container_form", Reason.INVALID_CONTAINER, _container_form),
    DocumentFault("vessel_check_digit", Reason.INVALID_VESSEL, _vessel_check_digit),
    DocumentFault("missing_reference", Reason.MISSING_SEGMENT, _missing_reference),
    DocumentFault("missing_trailer", Reason.MISSING_SEGMENT, _missing_trailer),
    DocumentFault("message_reference", Reason.REFERENCE_MISMATCH, _message_reference),
    DocumentFault("interchange_reference", Reason.REFERENCE_MISMATCH, _interchange_reference),
    DocumentFault(
        "equipment_count", Reason.EQUIPMENT_COUNT_MISMATCH, _equipment_count, of_instruction_only=True
    ),
    DocumentFault("weight_total", Reason.WEIGHT_MISMATCH, _weight_total, of_instruction_only=True),
    DocumentFault("equipment_type", Reason.UNKNOWN_EQUIPMENT_TYPE, _equipment_type),
    DocumentFault("directory", Reason.UNSUPPORTED_MESSAGE, _directory),
    DocumentFault("truncated_text", Reason.SYNTAX_ERROR, _nothing),
)
