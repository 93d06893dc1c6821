"""Makes bookings and documents from a seed: varied, a known share faulty, each with the outcome it must have.

Same seed and counts, same cases: `random.Random` alone decides, the clock never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import orjson

from examples.freight import booking_faults, document_faults, parties
from examples.freight.formats.codes import EQUIPMENT_TYPES, LOCATIONS, PACKAGE_TYPES, STATUS_CODES
from examples.freight.formats.document import Document
from examples.freight.formats.identifiers import container_check_digit, vessel_check_digit
from examples.freight.formats.iftmin import Equipment, GoodsItem, TransportInstruction
from examples.freight.formats.iftsta import StatusReport
from examples.freight.formats.reading import Party, Voyage
from examples.freight.formats.writing import Parties, document_segments

#: The oldest document of every scenario.
EPOCH: Final = datetime(2026, 12, 1, 6, 0, tzinfo=UTC)
FAULTY_SHARE: Final = 0.12
DOCUMENTS_PER_SHIPMENT: Final = 4

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Case:
    """One job to submit and the outcome it must have. `reason` is "" where it must succeed."""

    agent: str
    reference: str
    shipment: str
    input: dict[str, Any]
    reason: str
    fault: str

    @property
    def succeeds(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Shipment:
    """What all documents of one shipment share."""

    booking_reference: str
    voyage: Voyage
    loading: str
    discharge: str
    containers: tuple[tuple[str, str], ...]
    consignor: str
    consignee: str


class Generator:
    """Makes cases; every call goes on with the same random sequence."""

    def __init__(self, seed: int, faulty_share: float = FAULTY_SHARE) -> None:
        self._seed = seed
        self._random = Random(seed)
        self._faulty_share = faulty_share

    def documents(self, count: int) -> list[Case]:
        """Makes `count` documents; every fourth is an IFTMIN, the others IFTSTA of the same shipment."""
        faults = self._spread(count, document_faults.FAULTS)
        cases = []
        shipment = self._shipment(0)
        for index in range(count):
            position = index % DOCUMENTS_PER_SHIPMENT
            if position == 0:
                shipment = self._shipment(index // DOCUMENTS_PER_SHIPMENT)
            cases.append(self._document(index, position, shipment, faults[index]))
        return cases

    def bookings(self, count: int) -> list[Case]:
        """Makes `count` bookings."""
        faults = self._spread(count, booking_faults.FAULTS)
        return [self._booking(index, faults[index]) for index in range(count)]

    def instruction(self, number: str, shipment: Shipment) -> TransportInstruction:
        """Makes a valid IFTMIN of the shipment."""
        goods = tuple(self._goods() for _ in range(self._random.randint(1, 3)))
        return TransportInstruction(
            document_number=number,
            booking_reference=shipment.booking_reference,
            issued=self._moment(),
            voyage=shipment.voyage,
            port_of_loading=shipment.loading,
            port_of_discharge=shipment.discharge,
            parties=(Party("CZ", shipment.consignor), Party("CN", shipment.consignee)),
            goods=goods,
            equipment=tuple(Equipment(number, kind, (self._seal(),)) for number, kind in shipment.containers),
            gross_weight=sum((item.gross_weight for item in goods), Decimal(0)),
        )

    def status(self, number: str, shipment: Shipment) -> StatusReport:
        """Makes a valid IFTSTA about one container of the shipment."""
        container, kind = self._random.choice(shipment.containers)
        time = self._moment()
        return StatusReport(
            document_number=number,
            booking_reference=shipment.booking_reference,
            issued=time + timedelta(minutes=self._random.randint(1, 90)),
            status=self._random.choice(sorted(STATUS_CODES)),
            time=time,
            location=self._random.choice((shipment.loading, shipment.discharge)),
            voyage=shipment.voyage,
            parties=(Party("CA", shipment.voyage.carrier), Party("CN", shipment.consignee)),
            container=container,
            equipment_type=kind,
        )

    def _document(
        self, index: int, position: int, shipment: Shipment, fault: document_faults.DocumentFault | None
    ) -> Case:
        number = f"DOC{self._seed % 10_000:04d}{index:07d}"
        make = self.instruction if position == 0 else self.status
        document: Document = make(number, shipment)
        if fault is not None and fault.of_instruction_only and position != 0:
            document = self.instruction(number, shipment)
        if fault is not None and fault.of_status_only and position == 0:
            document = self.status(number, shipment)
        sender = Parties(shipment.voyage.carrier, "WORKMESH", f"IC{index:08d}", f"M{index:06d}")
        content = document_faults.write(list(document_segments(document, sender)), fault, self._random)
        return Case(
            agent="document",
            reference=number,
            shipment=shipment.booking_reference,
            input={"documentReference": number, "content": content},
            reason=fault.reason if fault else "",
            fault=fault.name if fault else "",
        )

    def _booking(self, index: int, fault: booking_faults.BookingFault | None) -> Case:
        reference = f"BKG{self._seed % 10_000:04d}{index:07d}"
        fields = self._booking_fields(reference)
        if fault is not None:
            fault.apply(fields, self._random)
        return Case(
            agent="booking",
            reference=reference,
            shipment=reference,
            input=fields,
            reason=fault.reason if fault else "",
            fault=fault.name if fault else "",
        )

    def _booking_fields(self, reference: str) -> dict[str, Any]:
        loading, discharge = self._random.sample(sorted(LOCATIONS), 2)
        vessel, number = self._vessel()
        return {
            "receiptTypeAtOrigin": "CY",
            "deliveryTypeAtDestination": self._random.choice(["CY", "SD"]),
            "cargoMovementTypeAtOrigin": "FCL",
            "cargoMovementTypeAtDestination": "FCL",
            "serviceContractReference": f"SC{self._random.randint(10_000, 99_999)}",
            "communicationChannelCode": "AO",
            "isPartialLoadAllowed": self._random.random() < 0.3,
            "isEquipmentSubstitutionAllowed": self._random.random() < 0.5,
            "isExportDeclarationRequired": True,
            "isImportLicenseRequired": False,
            "expectedDepartureDate": self._moment().date().isoformat(),
            "vessel": {"name": vessel, "vesselIMONumber": number},
            "references": [{"type": "CR", "value": reference}],
            "requestedEquipments": [self._requested_equipment()],
            "documentParties": {"shipper": {"partyName": self._random.choice(parties.CONSIGNORS)}},
            "shipmentLocations": [
                {"location": {"UNLocationCode": loading}, "locationTypeCode": "POL"},
                {"location": {"UNLocationCode": discharge}, "locationTypeCode": "POD"},
            ],
        }

    def _requested_equipment(self) -> dict[str, Any]:
        units = self._random.randint(1, 3)
        commodity, code = self._random.choice(parties.COMMODITIES)
        weight = {"value": float(self._random.randint(2_000, 24_000) * units), "unit": "KGM"}
        return {
            "ISOEquipmentCode": self._random.choice(sorted(EQUIPMENT_TYPES)),
            "units": units,
            "isShipperOwned": True,
            "equipmentReferences": [self._container() for _ in range(units)],
            "commodities": [{"commodityType": commodity, "HSCodes": [code], "cargoGrossWeight": weight}],
        }

    def _shipment(self, index: int) -> Shipment:
        loading, discharge = self._random.sample(sorted(LOCATIONS), 2)
        vessel, number = self._vessel()
        voyage = Voyage(
            f"{self._random.randint(10, 999):03d}W", self._random.choice(parties.CARRIERS), number, vessel
        )
        kinds = sorted(EQUIPMENT_TYPES)
        count = self._random.randint(1, 3)
        return Shipment(
            booking_reference=f"SHP{self._seed % 10_000:04d}{index:06d}",
            voyage=voyage,
            loading=loading,
            discharge=discharge,
            containers=tuple((self._container(), self._random.choice(kinds)) for _ in range(count)),
            consignor=self._random.choice(parties.CONSIGNORS),
            consignee=self._random.choice(parties.CONSIGNEES),
        )

    def _goods(self) -> GoodsItem:
        description, _ = self._random.choice(parties.COMMODITIES)
        package = self._random.choice(sorted(PACKAGE_TYPES))
        weight = Decimal(self._random.randint(800, 9_000)) + Decimal(self._random.randint(0, 3)) / 4
        return GoodsItem(self._random.randint(1, 400), package, description, weight)

    def _vessel(self) -> tuple[str, str]:
        name, serial = self._random.choice(parties.VESSELS)
        return name, serial + vessel_check_digit(serial)

    def _container(self) -> str:
        serial = f"{self._random.choice(parties.CONTAINER_OWNERS)}{self._random.randint(0, 999_999):06d}"
        return serial + container_check_digit(serial)

    def _seal(self) -> str:
        return f"SL{self._random.randint(0, 9_999_999):07d}"

    def _moment(self) -> datetime:
        return EPOCH + timedelta(minutes=self._random.randint(0, 60 * 24 * 45))

    def _spread(self, count: int, kinds: Sequence[_Item]) -> list[_Item | None]:
        """Returns for each index a fault or None; each kind is used before any is used again."""
        faulty = sorted(self._random.sample(range(count), round(count * self._faulty_share)))
        spread: list[_Item | None] = [None] * count
        for position, index in enumerate(faulty):
            spread[index] = kinds[position % len(kinds)]
        return spread


def save_cases(path: Path, cases: Iterable[Case]) -> None:
    """Writes cases as JSON lines: what the checker compares with."""
    path.write_bytes(b"".join(orjson.dumps(case) + b"\n" for case in cases))


def load_cases(path: Path) -> list[Case]:
    """Reads what `save_cases` wrote."""
    return [Case(**orjson.loads(line)) for line in path.read_bytes().splitlines()]
