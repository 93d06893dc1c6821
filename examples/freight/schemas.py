"""JSON Schemas of the two agents' inputs: the gateway refuses what does not fit before a job exists."""

from __future__ import annotations

from typing import Any, Final

DOCUMENT: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["documentReference", "content"],
    "additionalProperties": False,
    "properties": {
        "documentReference": {"type": "string", "minLength": 1, "maxLength": 35},
        "content": {"type": "string", "minLength": 1, "maxLength": 200_000},
    },
}

BOOKING: Final[dict[str, Any]] = {
    "type": "object",
    "required": [
        "receiptTypeAtOrigin",
        "deliveryTypeAtDestination",
        "cargoMovementTypeAtOrigin",
        "cargoMovementTypeAtDestination",
        "serviceContractReference",
        "expectedDepartureDate",
        "references",
        "requestedEquipments",
        "documentParties",
        "shipmentLocations",
    ],
    "properties": {
        "receiptTypeAtOrigin": {"enum": ["CY", "SD", "CFS"]},
        "deliveryTypeAtDestination": {"enum": ["CY", "SD", "CFS"]},
        "cargoMovementTypeAtOrigin": {"enum": ["FCL", "LCL"]},
        "cargoMovementTypeAtDestination": {"enum": ["FCL", "LCL"]},
        "serviceContractReference": {"type": "string", "minLength": 1, "maxLength": 30},
        "communicationChannelCode": {"enum": ["EI", "EM", "AO"]},
        "isPartialLoadAllowed": {"type": "boolean"},
        "isEquipmentSubstitutionAllowed": {"type": "boolean"},
        "isExportDeclarationRequired": {"type": "boolean"},
        "isImportLicenseRequired": {"type": "boolean"},
        "expectedDepartureDate": {"type": "string", "maxLength": 10},
        "vessel": {
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 50},
                "vesselIMONumber": {"type": "string", "maxLength": 8},
            },
        },
        "references": {
            "type": "array",
            "minItems": 1,
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["type", "value"],
                "properties": {
                    "type": {"type": "string", "maxLength": 3},
                    "value": {"type": "string", "minLength": 1, "maxLength": 100},
                },
            },
        },
        "requestedEquipments": {
            "type": "array",
            "minItems": 1,
            "maxItems": 50,
            "items": {
                "type": "object",
                "required": ["ISOEquipmentCode", "units", "isShipperOwned", "commodities"],
                "properties": {
                    "ISOEquipmentCode": {"type": "string", "maxLength": 4},
                    "units": {"type": "integer", "minimum": 1, "maximum": 500},
                    "isShipperOwned": {"type": "boolean"},
                    "equipmentReferences": {
                        "type": "array",
                        "maxItems": 500,
                        "items": {"type": "string", "maxLength": 11},
                    },
                    "commodities": {
                        "type": "array",
                        "minItems": 1,
                        "maxItems": 50,
                        "items": {
                            "type": "object",
                            "required": ["commodityType", "cargoGrossWeight"],
                            "properties": {
                                "commodityType": {"type": "string", "minLength": 1, "maxLength": 550},
                                "HSCodes": {
                                    "type": "array",
                                    "items": {"type": "string", "pattern": "^[0-9]{6,10}$"},
                                },
                                "cargoGrossWeight": {
                                    "type": "object",
                                    "required": ["value", "unit"],
                                    "properties": {
                                        "value": {"type": "number"},
                                        "unit": {"enum": ["KGM", "LBR"]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        },
        "documentParties": {
            "type": "object",
            "required": ["shipper"],
            "additionalProperties": {
                "type": "object",
                "required": ["partyName"],
                "properties": {"partyName": {"type": "string", "minLength": 1, "maxLength": 70}},
            },
        },
        "shipmentLocations": {
            "type": "array",
            "minItems": 2,
            "maxItems": 20,
            "items": {
                "type": "object",
                "required": ["location", "locationTypeCode"],
                "properties": {
                    "locationTypeCode": {"type": "string", "maxLength": 3},
                    "location": {
                        "type": "object",
                        "required": ["UNLocationCode"],
                        "properties": {"UNLocationCode": {"type": "string", "maxLength": 5}},
                    },
                },
            },
        },
    },
}
