"""Bookings with the field names of the DCSA booking standard 2.0 (the part of `CreateBooking` used here).

The shape (types, required fields) is the agent's input schema (`schemas.BOOKING`), checked at the gateway
before a job exists; what is checked here needs knowledge of the trade.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from examples.freight.formats.faults import Fault, Reason
from examples.freight.formats.identifiers import (
    check_container,
    check_equipment_type,
    check_location,
    check_vessel,
    read_iso_date,
)

#: Gross weight a dry container may carry, in kilograms (ISO 668 rating 1A/1C less tare).
MAX_WEIGHT: Final = 28_500


@dataclass(frozen=True, slots=True)
class Booking:
    """A valid booking, as far as the agent needs it. `reference` is the customer's own (type CR)."""

    reference: str
    port_of_loading: str
    port_of_discharge: str
    departure: date
    equipment_code: str
    units: int
    shipper: str


def read_booking(fields: Mapping[str, Any]) -> tuple[Booking | None, list[Fault]]:
    """Reads a booking that satisfies `schemas.BOOKING`; the booking is None where there is any fault."""
    faults = list(_equipment_faults(fields))
    reference = _customer_reference(fields, faults)
    loading, discharge = (_location(fields, code, faults) for code in ("POL", "POD"))
    if loading and loading == discharge:
        faults.append(Fault(Reason.SAME_LOCATION, f"POL and POD are both {loading}", "shipmentLocations"))
    departure = read_iso_date(fields["expectedDepartureDate"], "expectedDepartureDate")
    if isinstance(departure, Fault):
        faults.append(departure)
    vessel = fields.get("vessel", {}).get("vesselIMONumber", "")
    if vessel and (fault := check_vessel(vessel, "vessel.vesselIMONumber")):
        faults.append(fault)
    if faults or isinstance(departure, Fault):
        return None, faults
    equipment = fields["requestedEquipments"][0]
    units = int(sum(request["units"] for request in fields["requestedEquipments"]))
    shipper = fields["documentParties"]["shipper"]["partyName"]
    code = equipment["ISOEquipmentCode"]
    return Booking(reference, loading, discharge, departure, code, units, shipper), []


def _equipment_faults(fields: Mapping[str, Any]) -> Iterator[Fault]:
    for index, request in enumerate(fields["requestedEquipments"]):
        where = f"requestedEquipments[{index}]"
        if fault := check_equipment_type(request["ISOEquipmentCode"], f"{where}.ISOEquipmentCode"):
            yield fault
        containers = request.get("equipmentReferences", [])
        for position, container in enumerate(containers):
            if fault := check_container(container, f"{where}.equipmentReferences[{position}]"):
                yield fault
        if request["isShipperOwned"] and len(containers) != request["units"]:
            text = f"{request['units']} shipper-owned units, {len(containers)} container numbers"
            yield Fault(Reason.EQUIPMENT_COUNT_MISMATCH, text, f"{where}.equipmentReferences")
        yield from _weight_faults(request, where)


def _weight_faults(request: Mapping[str, Any], where: str) -> Iterator[Fault]:
    total = 0.0
    for commodity in request["commodities"]:
        weight = commodity["cargoGrossWeight"]
        if weight["value"] <= 0:
            yield Fault(Reason.INVALID_WEIGHT, f"a gross weight of {weight['value']}", f"{where}.commodities")
        total += weight["value"] * (0.45359237 if weight["unit"] == "LBR" else 1.0)
    if total > MAX_WEIGHT * request["units"]:
        text = f"{total:.0f} kg are more than {request['units']} containers may carry"
        yield Fault(Reason.INVALID_WEIGHT, text, f"{where}.commodities")


def _customer_reference(fields: Mapping[str, Any], faults: list[Fault]) -> str:
    for reference in fields["references"]:
        if reference["type"] == "CR":
            return str(reference["value"])
    faults.append(Fault(Reason.MISSING_FIELD, "no customer's reference (type CR)", "references"))
    return ""


def _location(fields: Mapping[str, Any], type_code: str, faults: list[Fault]) -> str:
    for index, location in enumerate(fields["shipmentLocations"]):
        if location["locationTypeCode"] == type_code:
            code = str(location["location"]["UNLocationCode"])
            if fault := check_location(code, f"shipmentLocations[{index}].location.UNLocationCode"):
                faults.append(fault)
                return ""
            return code
    faults.append(Fault(Reason.MISSING_FIELD, f"no location of type {type_code}", "shipmentLocations"))
    return ""
