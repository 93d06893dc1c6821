"""Reads one document: the envelope, then the message it carries."""

from __future__ import annotations

from dataclasses import dataclass

from examples.freight.formats.faults import Fault, Reason
from examples.freight.formats.iftmin import TransportInstruction, read_instruction
from examples.freight.formats.iftsta import StatusReport, read_status
from examples.freight.formats.segments import Message, open_envelope, split

Document = TransportInstruction | StatusReport


@dataclass(frozen=True, slots=True)
class Reading:
    """A document, or the faults that kept it from being one; never both."""

    document: Document | None
    faults: tuple[Fault, ...]


def read_document(text: str) -> Reading:
    """Reads an IFTMIN or IFTSTA interchange of one message. Bad text does not raise: see `Reading.faults`."""
    segments = split(text)
    if isinstance(segments, Fault):
        return Reading(None, (segments,))
    message, faults = open_envelope(segments)
    if message is None:
        return Reading(None, tuple(faults))
    document, more = _read_body(message)
    faults.extend(more)
    return Reading(None if faults else document, tuple(faults))


def _read_body(message: Message) -> tuple[Document | None, list[Fault]]:
    envelope = message.envelope
    if envelope.directory == "D.99B" and envelope.message_type == "IFTMIN":
        return read_instruction(message)
    if envelope.directory == "D.99B" and envelope.message_type == "IFTSTA":
        return read_status(message)
    text = f"{envelope.message_type} {envelope.directory} is neither IFTMIN nor IFTSTA of D.99B"
    return None, [Fault(Reason.UNSUPPORTED_MESSAGE, text, "UNH[2]")]
