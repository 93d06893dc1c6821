"""IFTMIN (instruction message, D.99B): a shipper's instruction to carry containers on a booked voyage."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from examples.freight.formats.faults import Fault, Reason
from examples.freight.formats.identifiers import check_container, check_equipment_type, check_vessel
from examples.freight.formats.reading import BodyReader, Party, Voyage, group
from examples.freight.formats.segments import Message, Segment

SHIPPING_INSTRUCTION: Final = "340"
_TAGS: Final = frozenset(
    [
        "BGM",
        "CTA",
        "COM",
        "DTM",
        "TSR",
        "FTX",
        "CNT",
        "LOC",
        "RFF",
        "TDT",
        "NAD",
        "GID",
        "MEA",
        "SGP",
        "EQD",
        "SEL",
    ]
)
_GOODS_MEMBERS: Final = frozenset({"FTX", "MEA", "SGP"})
_EQUIPMENT_MEMBERS: Final = frozenset({"MEA", "SEL"})


@dataclass(frozen=True, slots=True)
class GoodsItem:
    """One GID group: what is carried. Weight in kilograms."""

    packages: int
    package_type: str
    description: str
    gross_weight: Decimal


@dataclass(frozen=True, slots=True)
class Equipment:
    """One EQD group: a container, its size and type, its seals."""

    container: str
    equipment_type: str
    seals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TransportInstruction:
    """A valid IFTMIN. The booking reference names the shipment. Weight in kilograms."""

    document_number: str
    booking_reference: str
    issued: datetime
    voyage: Voyage
    port_of_loading: str
    port_of_discharge: str
    parties: tuple[Party, ...]
    goods: tuple[GoodsItem, ...]
    equipment: tuple[Equipment, ...]
    gross_weight: Decimal


def read_instruction(message: Message) -> tuple[TransportInstruction | None, list[Fault]]:
    """Reads and checks the body of an IFTMIN; the instruction is None where there is any fault."""
    reader = BodyReader(message.body)
    reader.allow(_TAGS)
    bgm = reader.require("BGM")
    if bgm is not None and bgm.get(0) != SHIPPING_INSTRUCTION:
        reader.note(Fault(Reason.UNSUPPORTED_MESSAGE, f"document code {bgm.get(0)!r} is not 340", bgm.where))
    document_number = reader.value(bgm, 1)
    issued = reader.date(reader.require("DTM", "137"))
    gross_weight = reader.weight(reader.require("CNT", "7"), 0, 1)
    booking_reference = reader.value(reader.require("RFF", "BN"), 0, 1)
    voyage = reader.voyage(check_vessel)
    loading, discharge = reader.location("9"), reader.location("11")
    parties = reader.parties(("CZ", "CN"))
    goods = _read_goods(reader)
    equipment = _read_equipment(reader)
    _check_totals(reader, goods, equipment, gross_weight)
    if loading and loading == discharge:
        reader.note(Fault(Reason.SAME_LOCATION, f"loading and discharge are both {loading}", "LOC+11"))
    if reader.faults or issued is None:
        return None, reader.faults
    instruction = TransportInstruction(
        document_number,
        booking_reference,
        issued,
        voyage,
        loading,
        discharge,
        parties,
        goods,
        equipment,
        gross_weight,
    )
    return instruction, []


def _read_goods(reader: BodyReader) -> tuple[GoodsItem, ...]:
    reader.require("GID")
    return tuple(_read_goods_item(reader, members) for members in group(reader.body, "GID", _GOODS_MEMBERS))


def _read_goods_item(reader: BodyReader, members: tuple[Segment, ...]) -> GoodsItem:
    gid = members[0]
    packages = reader.value(gid, 1)
    if packages and not (packages.isascii() and packages.isdigit()):
        reader.note(Fault(Reason.INVALID_FIELD, f"{packages!r} is not a number of packages", gid.where))
        packages = ""
    description = next((part.get(3) for part in members if part.tag == "FTX" and part.get(0) == "AAA"), "")
    measure = next((part for part in members if part.tag == "MEA"), None)
    if measure is None:
        reader.note(
            Fault(Reason.MISSING_SEGMENT, "the goods item has no MEA with its gross weight", gid.where)
        )
    return GoodsItem(int(packages or 0), gid.get(1, 1), description, reader.weight(measure, 2, 1))


def _read_equipment(reader: BodyReader) -> tuple[Equipment, ...]:
    reader.require("EQD", "CN")
    return tuple(
        _read_container(reader, members) for members in group(reader.body, "EQD", _EQUIPMENT_MEMBERS)
    )


def _read_container(reader: BodyReader, members: tuple[Segment, ...]) -> Equipment:
    eqd = members[0]
    container = reader.check(check_container, eqd, 1)
    equipment_type = reader.check(check_equipment_type, eqd, 2)
    return Equipment(container, equipment_type, tuple(part.get(0) for part in members if part.tag == "SEL"))


def _check_totals(
    reader: BodyReader, goods: tuple[GoodsItem, ...], equipment: tuple[Equipment, ...], gross_weight: Decimal
) -> None:
    total = reader.require("CNT", "16")
    if total is not None and total.get(0, 1) != str(len(equipment)):
        text = f"CNT+16 counts {total.get(0, 1)} containers, the message names {len(equipment)}"
        reader.note(Fault(Reason.EQUIPMENT_COUNT_MISMATCH, text, total.where))
    weight = sum((item.gross_weight for item in goods), Decimal(0))
    if gross_weight and weight and weight != gross_weight:
        text = f"CNT+7 says {gross_weight} kg, the goods weigh {weight} kg"
        reader.note(Fault(Reason.WEIGHT_MISMATCH, text, "CNT+7"))
