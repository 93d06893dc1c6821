"""UN/EDIFACT text to segments, and the envelope around one message (ISO 9735: UNB, UNH, UNT, UNZ)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pydifact.exceptions import EDISyntaxError, ValidationError
from pydifact.parser import Parser
from pydifact.segments import Segment as RawSegment
from pydifact.segments import SegmentFactory

from examples.freight.formats.faults import Fault, Reason

MAX_SEGMENTS: Final = 5_000

#: Pydifact lets all of these out on malformed text.
_PARSER_ERRORS: Final = (
    EDISyntaxError,
    ValidationError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment: its tag, its elements as tuples of components, its number in the interchange (from 1)."""

    tag: str
    elements: tuple[tuple[str, ...], ...]
    number: int

    def get(self, element: int, component: int = 0) -> str:
        """Returns a component by position (from 0), or "" where the segment ends before it."""
        if element >= len(self.elements) or component >= len(self.elements[element]):
            return ""
        return self.elements[element][component]

    @property
    def where(self) -> str:
        return f"{self.tag}[{self.number}]"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What UNB and UNH say."""

    sender: str
    recipient: str
    interchange_reference: str
    message_reference: str
    message_type: str
    directory: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its envelope and the segments between UNH and UNT."""

    envelope: Envelope
    body: tuple[Segment, ...]


class _PlainFactory(SegmentFactory):
    """Makes segments without pydifact's own checks: its wheel lacks the directories they would need."""

    @staticmethod
    def create_segment(name: str, *elements: str | list[str], **_: object) -> RawSegment:
        if not elements:
            raise EDISyntaxError(f"Segment {name} is empty.")
        return RawSegment(name, *elements)


def split(text: str) -> list[Segment] | Fault:
    """Splits EDIFACT text (with or without UNA) into segments; UNA itself is consumed."""
    segments: list[Segment] = []
    try:
        for raw in Parser(factory=_PlainFactory()).parse(text):
            if raw.tag == "UNA":
                continue
            if len(segments) == MAX_SEGMENTS:
                return Fault(
                    Reason.SYNTAX_ERROR,
                    f"more than {MAX_SEGMENTS} segments",
                    f"{raw.tag}[{MAX_SEGMENTS + 1}]",
                )
            segments.append(Segment(raw.tag, tuple(map(_components, raw.elements)), len(segments) + 1))
    except _PARSER_ERRORS as error:
        return Fault(Reason.SYNTAX_ERROR, str(error) or type(error).__name__, f"segment {len(segments) + 1}")
    if not segments:
        return Fault(Reason.SYNTAX_ERROR, "the document holds no segment", "segment 1")
    return segments


def open_envelope(segments: Sequence[Segment]) -> tuple[Message | None, list[Fault]]:
    """Reads UNB … UNZ around exactly one UNH … UNT and checks every count and reference in them."""
    found = {
        tag: [segment for segment in segments if segment.tag == tag] for tag in ("UNB", "UNH", "UNT", "UNZ")
    }
    faults = list(_envelope_structure(segments, found))
    if faults:
        return None, faults
    unb, unh, unt, unz = (found[tag][0] for tag in ("UNB", "UNH", "UNT", "UNZ"))
    faults.extend(_envelope_counts(unb, unh, unt, unz))
    envelope = Envelope(
        sender=unb.get(1),
        recipient=unb.get(2),
        interchange_reference=unb.get(4),
        message_reference=unh.get(0),
        message_type=unh.get(1),
        directory=f"{unh.get(1, 1)}.{unh.get(1, 2)}",
    )
    return Message(envelope, tuple(segments[unh.number : unt.number - 1])), faults


def _envelope_structure(segments: Sequence[Segment], found: dict[str, list[Segment]]) -> Iterator[Fault]:
    missing = [tag for tag, matches in found.items() if not matches]
    for tag in missing:
        yield Fault(Reason.MISSING_SEGMENT, f"the interchange has no {tag}", tag)
    if len(found["UNH"]) > 1:
        yield Fault(
            Reason.UNSUPPORTED_MESSAGE, "one message an interchange is accepted", found["UNH"][1].where
        )
    if missing or len(found["UNH"]) > 1:
        return
    expected = {"UNB": 0, "UNH": 1, "UNT": len(segments) - 2, "UNZ": len(segments) - 1}
    for tag, index in expected.items():
        for match in found[tag]:
            if match.number - 1 != index:
                yield Fault(Reason.UNEXPECTED_SEGMENT, f"{tag} does not stand here", match.where)


def _envelope_counts(unb: Segment, unh: Segment, unt: Segment, unz: Segment) -> Iterator[Fault]:
    if unh.get(0) != unt.get(1):
        message = f"UNH opens message {unh.get(0)!r}, UNT closes {unt.get(1)!r}"
        yield Fault(Reason.REFERENCE_MISMATCH, message, unt.where)
    count = unt.number - unh.number + 1
    if unt.get(0) != str(count):
        message = f"UNT counts {unt.get(0)} segments, the message has {count}"
        yield Fault(Reason.SEGMENT_COUNT_MISMATCH, message, unt.where)
    if unz.get(0) != "1":
        yield Fault(Reason.MESSAGE_COUNT_MISMATCH, f"UNZ counts {unz.get(0)} messages, there is 1", unz.where)
    if unb.get(4) != unz.get(1):
        message = f"UNB opens interchange {unb.get(4)!r}, UNZ closes {unz.get(1)!r}"
        yield Fault(Reason.REFERENCE_MISMATCH, message, unz.where)


def _components(element: str | list[str]) -> tuple[str, ...]:
    return (element,) if isinstance(element, str) else tuple(element)
