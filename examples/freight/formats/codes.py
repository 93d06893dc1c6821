"""Code lists: the part of each standard's list that these trade lanes use."""

from __future__ import annotations

from typing import Final

#: UN/LOCODE (UNECE Recommendation 16): the ports these carriers serve. The full list has 110,000 entries.
LOCATIONS: Final[dict[str, str]] = {
    "AEJEA": "Jebel Ali",
    "ARBUE": "Buenos Aires",
    "AUMEL": "Melbourne",
    "AUSYD": "Sydney",
    "BEANR": "Antwerpen",
    "BRSSZ": "Santos",
    "CAMTR": "Montréal",
    "CAVAN": "Vancouver",
    "CLSAI": "San Antonio",
    "CNNGB": "Ningbo",
    "CNSHA": "Shanghai",
    "CNTAO": "Qingdao",
    "CNYTN": "Yantian",
    "COCTG": "Cartagena",
    "DEBRV": "Bremerhaven",
    "DEHAM": "Hamburg",
    "EGPSD": "Port Said",
    "ESALG": "Algeciras",
    "ESVLC": "Valencia",
    "FRLEH": "Le Havre",
    "GBFXT": "Felixstowe",
    "GRPIR": "Piraeus",
    "HKHKG": "Hong Kong",
    "IDJKT": "Jakarta",
    "INNSA": "Nhava Sheva",
    "ITGOA": "Genova",
    "JPTYO": "Tokyo",
    "JPYOK": "Yokohama",
    "KRPUS": "Busan",
    "LKCMB": "Colombo",
    "MAPTM": "Tanger Med",
    "MXZLO": "Manzanillo",
    "MYPKG": "Port Klang",
    "MYTPP": "Tanjung Pelepas",
    "NLRTM": "Rotterdam",
    "NZAKL": "Auckland",
    "PECLL": "Callao",
    "PLGDN": "Gdansk",
    "SAJED": "Jeddah",
    "SEGOT": "Göteborg",
    "SGSIN": "Singapore",
    "THLCH": "Laem Chabang",
    "TWKHH": "Kaohsiung",
    "USHOU": "Houston",
    "USLAX": "Los Angeles",
    "USNYC": "New York",
    "USSAV": "Savannah",
    "VNSGN": "Ho Chi Minh City",
    "ZADUR": "Durban",
}

#: ISO 6346 size and type codes.
EQUIPMENT_TYPES: Final[dict[str, str]] = {
    "22G1": "20' general purpose",
    "22R1": "20' refrigerated",
    "22T1": "20' tank",
    "22U1": "20' open top",
    "42G1": "40' general purpose",
    "42P1": "40' flat rack",
    "42U1": "40' open top",
    "45G1": "40' high cube",
    "45R1": "40' high cube refrigerated",
    "L5G1": "45' high cube",
}

#: Shipment status codes (ANSI X12 element 1650) as IFTSTA carries them in STS C555, list qualifier 22.
STATUS_CODES: Final[dict[str, str]] = {
    "EE": "empty equipment dispatched",
    "I": "in-gate",
    "AE": "loaded on vessel",
    "VD": "vessel departed",
    "VA": "vessel arrived",
    "UV": "unloaded from vessel",
    "CT": "customs released",
    "AL": "loaded on rail",
    "RL": "rail departed",
    "AR": "rail arrived",
    "UR": "unloaded from rail",
    "OA": "out-gate",
    "D": "delivered",
    "RD": "empty returned",
}

#: NAD 3035 party roles (UNCL 3035).
PARTY_ROLES: Final[dict[str, str]] = {
    "CZ": "consignor",
    "CN": "consignee",
    "CA": "carrier",
    "FW": "freight forwarder",
    "N1": "notify party",
}

#: LOC 3227 place qualifiers (UNCL 3227).
PLACE_QUALIFIERS: Final[dict[str, str]] = {
    "7": "place of delivery",
    "9": "port of loading",
    "11": "port of discharge",
    "88": "place of receipt",
    "175": "place of the event",
}

#: Package type codes (UNECE Recommendation 21).
PACKAGE_TYPES: Final[dict[str, str]] = {
    "CT": "carton",
    "PX": "pallet",
    "DR": "drum",
    "BG": "bag",
    "CR": "crate",
}
