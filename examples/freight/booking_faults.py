"""Ways to spoil a good booking that still fits the input schema: each names the reason it must fail for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from examples.freight.formats.faults import Reason

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class BookingFault:
    """A fault, the reason it must be refused for, and how to make it (in place)."""

    name: str
    reason: str
    apply: Callable[[Fields, Random], None]


def _container_check_digit(fields: Fields, random: Random) -> None:
    containers = fields["requestedEquipments"][0]["equipmentReferences"]
    number = containers[0]
    containers[0] = number[:-1] + str((int(number[-1]) + random.randint(1, 9)) % 10)


def _unknown_port(fields: Fields, random: Random) -> None:
    location = random.choice(fields["shipmentLocations"])
    location["location"]["UNLocationCode"] = random.choice(["DEXXX", "ZZZZZ", "N0RTM"])


def _same_port(fields: Fields, _: Random) -> None:
    loading, discharge = fields["shipmentLocations"]
    discharge["location"] = dict(loading["location"])


def _impossible_date(fields: Fields, random: Random) -> None:
    fields["expectedDepartureDate"] = random.choice(["2026-02-30", "2026-13-01", "01.12.2026"])


def _too_heavy(fields: Fields, _: Random) -> None:
    equipment = fields["requestedEquipments"][0]
    equipment["commodities"][0]["cargoGrossWeight"]["value"] = 30_000.0 * equipment["units"]


def _unknown_equipment(fields: Fields, _: Random) -> None:
    fields["requestedEquipments"][0]["ISOEquipmentCode"] = "99Z9"


def _vessel_check_digit(fields: Fields, _: Random) -> None:
    number = fields["vessel"]["vesselIMONumber"]
    fields["vessel"]["vesselIMONumber"] = number[:-1] + str((int(number[-1]) + 1) % 10)


def _missing_container(fields: Fields, _: Random) -> None:
    fields["requestedEquipments"][0]["equipmentReferences"].pop()


FAULTS: Final[tuple[BookingFault, ...]] = (
    BookingFault("container_check_digit", Reason.INVALID_CONTAINER, _container_check_digit),
    BookingFault("unknown_port", Reason.UNKNOWN_LOCATION, _unknown_port),
    BookingFault("impossible_date", Reason.INVALID_DATE, _impossible_date),
    BookingFault("too_heavy", Reason.INVALID_WEIGHT, _too_heavy),
    BookingFault("same_port", Reason.SAME_LOCATION, _same_port),
    BookingFault("unknown_equipment", Reason.UNKNOWN_EQUIPMENT_TYPE, _unknown_equipment),
    BookingFault("vessel_check_digit", Reason.INVALID_VESSEL, _vessel_check_digit),
    BookingFault("missing_container", Reason.EQUIPMENT_COUNT_MISMATCH, _missing_container),
)
