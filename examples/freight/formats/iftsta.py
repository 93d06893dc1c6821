"""IFTSTA (multimodal status report, D.99B): one status of one container, as carriers send it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from examples.freight.formats.codes import STATUS_CODES
from examples.freight.formats.faults import Fault, Reason
from examples.freight.formats.identifiers import check_container, check_equipment_type, check_vessel
from examples.freight.formats.reading import BodyReader, Party, Voyage
from examples.freight.formats.segments import Message

STATUS_REPORT: Final = "23"
_TAGS: Final = frozenset(["BGM", "DTM", "NAD", "RFF", "LOC", "FTX", "CNI", "STS", "TDT", "EQD", "SEL"])


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A valid IFTSTA. The booking reference names the shipment; `time` is local at `location`."""

    document_number: str
    booking_reference: str
    issued: datetime
    status: str
    time: datetime
    location: str
    voyage: Voyage
    parties: tuple[Party, ...]
    container: str
    equipment_type: str


def read_status(message: Message) -> tuple[StatusReport | None, list[Fault]]:
    """Reads and checks the body of an IFTSTA; the report is None where there is any fault."""
    reader = BodyReader(message.body)
    reader.allow(_TAGS)
    bgm = reader.require("BGM")
    if bgm is not None and bgm.get(0) != STATUS_REPORT:
        reader.note(Fault(Reason.UNSUPPORTED_MESSAGE, f"document code {bgm.get(0)!r} is not 23", bgm.where))
    document_number = reader.value(bgm, 1)
    issued = reader.date(reader.require("DTM", "137"))
    parties = reader.parties(("CA",))
    booking_reference = reader.value(reader.require("RFF", "BN"), 0, 1)
    reader.require("CNI")
    status = reader.check(_check_status, reader.require("STS", "1"), 1)
    time = reader.date(reader.require("DTM", "334"))
    location = reader.location("175")
    voyage = reader.voyage(check_vessel)
    eqd = reader.require("EQD", "CN")
    container = reader.check(check_container, eqd, 1)
    equipment_type = reader.check(check_equipment_type, eqd, 2)
    if reader.faults or issued is None or time is None:
        return None, reader.faults
    report = StatusReport(
        document_number,
        booking_reference,
        issued,
        status,
        time,
        location,
        voyage,
        parties,
        container,
        equipment_type,
    )
    return report, []


def _check_status(code: str, where: str) -> Fault | None:
    if code in STATUS_CODES:
        return None
    return Fault(Reason.UNKNOWN_STATUS_CODE, f"status {code!r} is not in the code list", where)
