from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.freight.formats.document import Reading, read_document
from examples.freight.formats.faults import Reason
from examples.freight.formats.iftmin import TransportInstruction
from examples.freight.formats.iftsta import StatusReport
from examples.freight.samples import Sample, load_samples

SAMPLES = {sample.name: sample for sample in load_samples()}


def read(name: str, *changes: tuple[str, str]) -> Reading:
    content = SAMPLES[name].content
    for old, new in changes:
        assert content.count(old) >= 1, old
        content = content.replace(old, new, 1)
    return read_document(content)


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
def test_every_sample_has_exactly_the_faults_it_names(sample: Sample) -> None:
    reading = read_document(sample.content)
    assert tuple(fault.reason for fault in reading.faults) == sample.expected
    assert (reading.document is None) == bool(sample.expected)


def test_an_instruction_is_read_with_released_characters_weights_and_seals() -> None:
    document = read("iftmin").document
    assert isinstance(document, TransportInstruction)
    assert document.document_number == "SI-2026-004711"
    assert document.booking_reference == "MAEU246813579"
    assert [party.name for party in document.parties] == ["DELTA POLYMERS + RESINS BV", "O'CONNELL FOODS LTD"]
    assert document.gross_weight == Decimal("37250.5")
    assert document.goods[1].description == "Additive masterbatch: carbon black"
    assert (document.goods[0].packages, document.goods[0].package_type) == (40, "PX")
    assert [unit.container for unit in document.equipment] == ["MSKU1234565", "TCLU5550121"]
    assert document.equipment[1].seals == ("NL4400872",)
    assert (document.port_of_loading, document.port_of_discharge) == ("NLRTM", "USNYC")
    assert (document.voyage.vessel_number, document.voyage.vessel_name) == ("9450131", "NORTHERN JUPITER")


def test_a_status_report_is_read_with_its_time_and_place() -> None:
    document = read("iftsta").document
    assert isinstance(document, StatusReport)
    assert (document.status, document.location, document.container) == ("AE", "NLRTM", "MSKU1234565")
    assert document.time.isoformat() == "2026-12-04T21:55:00+00:00"
    assert document.parties[0].name == "MAEU"


@pytest.mark.parametrize(
    ("change", "reason", "where"),
    [
        (("UNT+23+1'", "UNT+22+1'"), Reason.SEGMENT_COUNT_MISMATCH, "UNT[24]"),
        (("UNT+23+1'", "UNT+23+2'"), Reason.REFERENCE_MISMATCH, "UNT[24]"),
        (("UNZ+1+DP", "UNZ+2+DP"), Reason.MESSAGE_COUNT_MISMATCH, "UNZ[25]"),
        (("UNZ+1+DP20261201001", "UNZ+1+OTHER"), Reason.REFERENCE_MISMATCH, "UNZ[25]"),
        (("D:99B:UN", "D:01B:UN"), Reason.UNSUPPORTED_MESSAGE, "UNH[2]"),
        (("BGM+340", "BGM+610"), Reason.UNSUPPORTED_MESSAGE, "BGM[3]"),
        (("BGM+340+SI-2026-004711", "BGM+340+"), Reason.MISSING_FIELD, "BGM[3]"),
        (("202612010915:203", "202612012515:203"), Reason.INVALID_DATE, "DTM[4]"),
        (("202612010915:203", "20261201:999"), Reason.INVALID_DATE, "DTM[4]"),
        (("RFF+BN", "RFF+SI"), Reason.MISSING_SEGMENT, "RFF+BN"),
        (("9450131", "9450132"), Reason.INVALID_VESSEL, "TDT[8]"),
        (("9450131", "945013"), Reason.INVALID_VESSEL, "TDT[8]"),
        (("LOC+9+NLRTM", "LOC+9+NLRT1"), Reason.UNKNOWN_LOCATION, "LOC[10]"),
        (("LOC+11+USNYC", "LOC+11+NLRTM"), Reason.SAME_LOCATION, "LOC+11"),
        (("NAD+CZ", "NAD+ZZ"), Reason.MISSING_SEGMENT, "NAD+CZ"),
        (("GID+1+40:PX", "GID+1+many:PX"), Reason.INVALID_FIELD, "GID[14]"),
        (("MEA+AAE+G+KGM:24000", "MEA+AAE+G+KGM:-5"), Reason.INVALID_WEIGHT, "MEA[16]"),
        (("CNT+7:37250.5", "CNT+7:37250"), Reason.WEIGHT_MISMATCH, "CNT+7"),
        (("CNT+16:2", "CNT+16:3"), Reason.EQUIPMENT_COUNT_MISMATCH, "CNT[6]"),
        (("MSKU1234565", "MSKU1234566"), Reason.INVALID_CONTAINER, "EQD[20]"),
        (("MSKU1234565", "MSK_1234565"), Reason.INVALID_CONTAINER, "EQD[20]"),
        (("45G1", "99Z9"), Reason.UNKNOWN_EQUIPMENT_TYPE, "EQD[20]"),
        (("SEL+NL4400871", "XYZ+NL4400871"), Reason.UNEXPECTED_SEGMENT, "XYZ[21]"),
    ],
)
def test_each_fault_of_an_instruction_is_named_and_located(
    change: tuple[str, str], reason: Reason, where: str
) -> None:
    reading = read("iftmin", change)
    assert (reading.faults[0].reason, reading.faults[0].where) == (reason, where)
    assert reading.document is None


def test_a_decimal_comma_is_a_decimal_mark() -> None:
    assert read("iftmin", ("24000", "24000,0"), ("37250.5", "37250,5")).faults == ()


def test_two_messages_in_one_interchange_are_refused() -> None:
    content = SAMPLES["iftsta"].content
    message = content[content.index("UNH") : content.index("UNZ")]
    reading = read_document(content.replace("UNZ", message + "UNZ"))
    assert [fault.reason for fault in reading.faults] == [Reason.UNSUPPORTED_MESSAGE]


def test_a_missing_trailer_is_one_fault() -> None:
    content = SAMPLES["iftsta"].content
    reading = read_document(content[: content.index("UNZ")])
    assert [(fault.reason, fault.where) for fault in reading.faults] == [(Reason.MISSING_SEGMENT, "UNZ")]


def test_a_document_with_too_many_segments_is_refused() -> None:
    reading = read_document("FTX+AAA'" * 5_001)
    assert [fault.reason for fault in reading.faults] == [Reason.SYNTAX_ERROR]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="UNABHTZ+:'?19 \r\n\x00é_")))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    reading = read_document(text)
    assert reading.document is None
    assert reading.faults


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(["iftmin", "iftsta"]), data=st.data())
def test_no_damage_to_a_good_document_makes_the_reader_raise(name: str, data: st.DataObject) -> None:
    content = SAMPLES[name].content
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)))
    filler = data.draw(st.text(alphabet="+:'?AZ09 ", max_size=6))
    reading = read_document(content[:start] + filler + content[end:])
    assert (reading.document is None) == bool(reading.faults)
