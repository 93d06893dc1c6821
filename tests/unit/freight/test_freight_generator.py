from __future__ import annotations

from collections import Counter
from pathlib import Path

import jsonschema_rs
import pytest

from examples.freight import booking_faults, document_faults
from examples.freight.formats.booking import read_booking
from examples.freight.formats.document import read_document
from examples.freight.generator import Generator, load_cases, save_cases
from examples.freight.schemas import BOOKING, DOCUMENT

REFUSED_BY_CUSTOMS = "CUSTOMS_REJECTED"


@pytest.mark.parametrize("seed", [1, 7, 20_261_122])
def test_every_generated_document_has_the_outcome_its_case_expects(seed: int) -> None:
    for case in Generator(seed).documents(400):
        reading = read_document(case.input["content"])
        expected = [] if case.reason in ("", REFUSED_BY_CUSTOMS) else [case.reason]
        assert [fault.reason for fault in reading.faults] == expected, case.fault
        if reading.document is not None:
            assert reading.document.document_number == case.reference
            assert reading.document.booking_reference == case.shipment


@pytest.mark.parametrize("seed", [1, 7, 20_261_122])
def test_every_generated_booking_has_the_outcome_its_case_expects(seed: int) -> None:
    for case in Generator(seed).bookings(100):
        booking, faults = read_booking(case.input)
        assert [fault.reason for fault in faults] == ([case.reason] if case.reason else []), case.fault
        assert booking is None or booking.reference == case.reference


def test_every_case_fits_the_input_schema_of_its_agent() -> None:
    generator = Generator(3)
    schemas = {
        "booking": jsonschema_rs.validator_for(BOOKING),
        "document": jsonschema_rs.validator_for(DOCUMENT),
    }
    for case in generator.documents(200) + generator.bookings(100):
        assert schemas[case.agent].is_valid(case.input), case.fault


def test_the_same_seed_makes_the_same_cases_and_another_seed_others() -> None:
    assert Generator(5).documents(50) == Generator(5).documents(50)
    assert Generator(5).bookings(10) == Generator(5).bookings(10)
    assert Generator(5).documents(50) != Generator(6).documents(50)


def test_the_share_of_faulty_cases_is_exact_and_uses_every_kind() -> None:
    documents = Generator(11, faulty_share=0.12).documents(400)
    kinds = Counter(case.fault for case in documents if case.fault)
    assert kinds.total() == 48
    assert set(kinds) == {fault.name for fault in document_faults.FAULTS}
    bookings = Generator(11, faulty_share=0.2).bookings(40)
    assert {case.fault for case in bookings if case.fault} == {fault.name for fault in booking_faults.FAULTS}


def test_references_are_unique_and_shipments_have_several_documents() -> None:
    documents = Generator(2).documents(200)
    assert len({case.reference for case in documents}) == 200
    assert set(Counter(case.shipment for case in documents).values()) == {4}


def test_cases_survive_the_file(tmp_path: Path) -> None:
    cases = Generator(4).documents(20) + Generator(4).bookings(5)
    save_cases(tmp_path / "expected.jsonl", cases)
    assert load_cases(tmp_path / "expected.jsonl") == cases
