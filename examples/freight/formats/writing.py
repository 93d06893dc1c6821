"""Writes IFTMIN and IFTSTA interchanges: typed values to segments, pydifact to text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from pydifact.control.characters import Characters
from pydifact.segments import Segment
from pydifact.serializer import Serializer

from examples.freight.formats.codes import LOCATIONS
from examples.freight.formats.document import Document
from examples.freight.formats.iftmin import TransportInstruction
from examples.freight.formats.iftsta import StatusReport
from examples.freight.formats.reading import Party, Voyage

#: UNA: component and element separators, decimal mark, release character, blank, terminator.
SERVICE_STRING_ADVICE: Final = ":+.? '"


@dataclass(frozen=True, slots=True)
class Parties:
    """Who sends the interchange to whom, and under which references."""

    sender: str
    recipient: str
    interchange_reference: str
    message_reference: str


def write_document(document: Document, parties: Parties) -> str:
    """Returns the interchange as text with UNA, one segment a line."""
    return serialize(list(document_segments(document, parties)))


def document_segments(document: Document, parties: Parties) -> Iterator[Segment]:
    """Yields the segments from UNB to UNZ with every count and reference right."""
    if isinstance(document, TransportInstruction):
        kind, body = "IFTMIN", list(_instruction(document))
    else:
        kind, body = "IFTSTA", list(_status(document))
    prepared = [document.issued.strftime("%y%m%d"), document.issued.strftime("%H%M")]
    reference = parties.interchange_reference
    yield Segment(
        "UNB", ["UNOC", "3"], [parties.sender, "ZZZ"], [parties.recipient, "ZZZ"], prepared, reference
    )
    yield Segment("UNH", parties.message_reference, [kind, "D", "99B", "UN"])
    yield from body
    yield Segment("UNT", str(len(body) + 2), parties.message_reference)
    yield Segment("UNZ", "1", reference)


def serialize(segments: list[Segment]) -> str:
    """Writes segments as text with UNA, one a line."""
    return str(
        Serializer(Characters.from_str(SERVICE_STRING_ADVICE)).serialize(
            segments, with_una_header=True, break_lines=True
        )
    )


def _instruction(document: TransportInstruction) -> Iterator[Segment]:
    yield Segment("BGM", "340", document.document_number, "9")
    yield _date("137", document.issued)
    yield Segment("CNT", ["7", _kilograms(document.gross_weight), "KGM"])
    yield Segment("CNT", ["16", str(len(document.equipment))])
    yield Segment("RFF", ["BN", document.booking_reference])
    yield _voyage(document.voyage)
    yield _location("9", document.port_of_loading)
    yield _location("11", document.port_of_discharge)
    yield from map(_party, document.parties)
    for number, item in enumerate(document.goods, start=1):
        yield Segment("GID", str(number), [str(item.packages), item.package_type])
        yield Segment("FTX", "AAA", "", "", item.description)
        yield Segment("MEA", "AAE", "G", ["KGM", _kilograms(item.gross_weight)])
    for unit in document.equipment:
        yield Segment("EQD", "CN", unit.container, [unit.equipment_type, "102", "5"], "", "", "5")
        for seal in unit.seals:
            yield Segment("SEL", seal, "CA")


def _status(document: StatusReport) -> Iterator[Segment]:
    yield Segment("BGM", "23", document.document_number, "9")
    yield _date("137", document.issued)
    yield from map(_party, document.parties)
    yield Segment("RFF", ["BN", document.booking_reference])
    yield Segment("CNI", "1")
    yield Segment("STS", "1", [document.status, "", "22"])
    yield _date("334", document.time)
    yield _location("175", document.location)
    yield _voyage(document.voyage)
    yield Segment("EQD", "CN", document.container, [document.equipment_type, "102", "5"], "", "", "5")


def _voyage(voyage: Voyage) -> Segment:
    carrier, vessel = [voyage.carrier, "172", "182"], [voyage.vessel_number, "146", "11", voyage.vessel_name]
    return Segment("TDT", "20", voyage.number, "1", "", carrier, "", "", vessel)


def _location(qualifier: str, code: str) -> Segment:
    return Segment("LOC", qualifier, [code, "139", "6", LOCATIONS.get(code, "")])


def _party(party: Party) -> Segment:
    if party.role == "CA":
        return Segment("NAD", party.role, [party.name, "172", "182"])
    return Segment("NAD", party.role, "", "", party.name)


def _date(qualifier: str, moment: datetime) -> Segment:
    return Segment("DTM", [qualifier, moment.strftime("%Y%m%d%H%M"), "203"])


def _kilograms(weight: Decimal) -> str:
    return f"{weight.normalize():f}"
