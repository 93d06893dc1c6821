"""Trading partners that the generator uses and the customs portal knows."""

from __future__ import annotations

from typing import Final

CONSIGNORS: Final = (
    "NORDSEE MASCHINENBAU GMBH",
    "DELTA POLYMERS BV",
    "IBERIA CERAMICA SA",
    "SHANGHAI HORIZON TEXTILES CO",
    "BUSAN PRECISION PARTS LTD",
    "SANTOS COFFEE EXPORTERS LTDA",
    "MERSEY CHEMICALS PLC",
    "PIRAEUS OLIVE TRADING AE",
)

CONSIGNEES: Final = (
    "HUDSON WHOLESALE INC",
    "PACIFIC RIM DISTRIBUTION LLC",
    "CAPE LOGISTICS (PTY) LTD",
    "AUCKLAND HOME & GARDEN LTD",
    "O'CONNELL FOODS LTD",
    "JEBEL ALI RE-EXPORT FZE",
    "SINGAPORE MARINE STORES PTE",
    "MONTREAL PAPER + BOARD INC",
)

#: Whom the customs portal holds; a document that names one of them is refused at screening.
DENIED: Final = ("BLACKWATER REACH SHIPPING SA", "CASPIAN GREY GENERAL TRADING")

CARRIERS: Final = ("MAEU", "MSCU", "CMDU", "HLCU", "ONEY")

#: Vessel names with the first six digits of an IMO number; the seventh is the check digit.
VESSELS: Final = (
    ("NORTHERN JUPITER", "945013"),
    ("ATLANTIC HERON", "952814"),
    ("SOUTHERN CROSS BAY", "963027"),
    ("RHINE EXPRESS", "971842"),
    ("PEARL RIVER STAR", "984316"),
)

CONTAINER_OWNERS: Final = ("MSKU", "MSCU", "CMAU", "HLXU", "TCLU", "TGHU", "ONEU")

COMMODITIES: Final = (
    ("Machine tools", "845811"),
    ("Polyethylene granulate", "390110"),
    ("Ceramic tiles", "690721"),
    ("Cotton garments", "620342"),
    ("Ball bearings", "848210"),
    ("Green coffee beans", "090111"),
    ("Olive oil: extra virgin", "150920"),
    ("Kraft paper 'brown'", "480411"),
)
