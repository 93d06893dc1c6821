from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import jsonschema_rs
import pytest

from examples.freight.formats.booking import read_booking
from examples.freight.formats.faults import Reason
from examples.freight.schemas import BOOKING

VALID: dict[str, Any] = {
    "receiptTypeAtOrigin": "CY",
    "deliveryTypeAtDestination": "CY",
    "cargoMovementTypeAtOrigin": "FCL",
    "cargoMovementTypeAtDestination": "FCL",
    "serviceContractReference": "SC10001",
    "expectedDepartureDate": "2026-12-11",
    "vessel": {"name": "NORTHERN JUPITER", "vesselIMONumber": "9450131"},
    "references": [{"type": "CR", "value": "BKG-1"}],
    "requestedEquipments": [
        {
            "ISOEquipmentCode": "22G1",
            "units": 1,
            "isShipperOwned": True,
            "equipmentReferences": ["MSKU1234565"],
            "commodities": [
                {"commodityType": "Machine tools", "cargoGrossWeight": {"value": 12_000, "unit": "KGM"}}
            ],
        }
    ],
    "documentParties": {"shipper": {"partyName": "DELTA POLYMERS BV"}},
    "shipmentLocations": [
        {"location": {"UNLocationCode": "NLRTM"}, "locationTypeCode": "POL"},
        {"location": {"UNLocationCode": "USNYC"}, "locationTypeCode": "POD"},
    ],
}


def equipment(fields: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = fields["requestedEquipments"][0]
    return request


def test_a_good_booking_is_read() -> None:
    booking, faults = read_booking(VALID)
    assert not faults
    assert booking is not None
    assert (booking.reference, booking.port_of_loading, booking.port_of_discharge) == (
        "BKG-1",
        "NLRTM",
        "USNYC",
    )
    assert (booking.equipment_code, booking.units, booking.shipper) == ("22G1", 1, "DELTA POLYMERS BV")


@pytest.mark.parametrize(
    ("spoil", "reason", "where"),
    [
        (
            lambda fields: equipment(fields).update(equipmentReferences=["MSKU1234566"]),
            Reason.INVALID_CONTAINER,
            "requestedEquipments[0].equipmentReferences[0]",
        ),
        (
            lambda fields: equipment(fields).update(equipmentReferences=[]),
            Reason.EQUIPMENT_COUNT_MISMATCH,
            "requestedEquipments[0].equipmentReferences",
        ),
        (
            lambda fields: equipment(fields).update(ISOEquipmentCode="ZZZZ"),
            Reason.UNKNOWN_EQUIPMENT_TYPE,
            "requestedEquipments[0].ISOEquipmentCode",
        ),
        (
            lambda fields: equipment(fields)["commodities"][0]["cargoGrossWeight"].update(value=28_501),
            Reason.INVALID_WEIGHT,
            "requestedEquipments[0].commodities",
        ),
        (
            lambda fields: equipment(fields)["commodities"][0]["cargoGrossWeight"].update(value=0),
            Reason.INVALID_WEIGHT,
            "requestedEquipments[0].commodities",
        ),
        (
            lambda fields: fields["shipmentLocations"][0]["location"].update(UNLocationCode="NLROT"),
            Reason.UNKNOWN_LOCATION,
            "shipmentLocations[0].location.UNLocationCode",
        ),
        (
            lambda fields: fields["shipmentLocations"][1]["location"].update(UNLocationCode="NLRTM"),
            Reason.SAME_LOCATION,
            "shipmentLocations",
        ),
        (
            lambda fields: fields["shipmentLocations"][1].update(locationTypeCode="FCD"),
            Reason.MISSING_FIELD,
            "shipmentLocations",
        ),
        (lambda fields: fields["references"][0].update(type="FF"), Reason.MISSING_FIELD, "references"),
        (
            lambda fields: fields.update(expectedDepartureDate="2026-02-30"),
            Reason.INVALID_DATE,
            "expectedDepartureDate",
        ),
        (
            lambda fields: fields.update(expectedDepartureDate="2026-W49-1"),
            Reason.INVALID_DATE,
            "expectedDepartureDate",
        ),
        (
            lambda fields: fields["vessel"].update(vesselIMONumber="9450132"),
            Reason.INVALID_VESSEL,
            "vessel.vesselIMONumber",
        ),
    ],
)
def test_each_fault_of_a_booking_is_named_and_located(
    spoil: Callable[[dict[str, Any]], None], reason: Reason, where: str
) -> None:
    fields = deepcopy(VALID)
    spoil(fields)
    booking, faults = read_booking(fields)
    assert booking is None
    assert [(fault.reason, fault.where) for fault in faults] == [(reason, where)]


def test_weights_in_pounds_are_converted() -> None:
    fields = deepcopy(VALID)
    equipment(fields)["commodities"][0]["cargoGrossWeight"] = {"value": 60_000, "unit": "LBR"}
    assert not read_booking(fields)[1]


def test_the_schema_takes_the_good_booking_and_refuses_wrong_shapes() -> None:
    schema = jsonschema_rs.validator_for(BOOKING)
    assert schema.is_valid(VALID)
    assert not schema.is_valid({**VALID, "shipmentLocations": "NLRTM"})
    assert not schema.is_valid({**VALID, "references": []})
    assert not schema.is_valid({key: value for key, value in VALID.items() if key != "documentParties"})
