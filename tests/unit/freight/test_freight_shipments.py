from __future__ import annotations

from functools import reduce
from itertools import permutations

import orjson

from examples.freight.generator import Generator
from examples.freight.samples import load_samples
from examples.freight.shipments import Summary, merge, parse

SAMPLES = {sample.name: sample.content for sample in load_samples()}


def test_documents_of_a_shipment_give_the_same_state_in_any_order() -> None:
    cases = Generator(9, faulty_share=0.0).documents(4)
    summaries = [parse(case.input["content"]) for case in cases]
    start: Summary | None = None
    states = [reduce(merge, order, start) for order in permutations(summaries)]
    assert len({orjson.dumps(state, option=orjson.OPT_SORT_KEYS) for state in states}) == 1
    assert states[0] is not None
    assert set(states[0]["documents"]) == {case.reference for case in cases}


def test_merging_a_document_again_changes_nothing() -> None:
    summary = parse(SAMPLES["iftsta"])
    once = merge(None, summary)
    assert merge(once, summary) == once


def test_the_latest_status_of_a_container_stands() -> None:
    report = parse(SAMPLES["iftsta"])
    later = parse(SAMPLES["iftsta"].replace("STS+1+AE", "STS+1+VD").replace("202612042155", "202612050300"))
    for order in ([report, later], [later, report]):
        state = merge(merge(None, order[0]), order[1])
        assert state["containers"]["MSKU1234565"]["status"] == "VD"


def test_merging_leaves_the_state_it_was_given_untouched() -> None:
    state = merge(None, parse(SAMPLES["iftmin"]))
    before = orjson.dumps(state)
    merge(state, parse(SAMPLES["iftsta"]))
    assert orjson.dumps(state) == before


def test_a_faulty_document_parses_to_its_faults_in_plain_json() -> None:
    parsed = parse(SAMPLES["iftsta-unknown-status"])
    assert [fault["reason"] for fault in parsed["faults"]] == ["UNKNOWN_STATUS_CODE", "UNKNOWN_LOCATION"]
    assert orjson.loads(orjson.dumps(parsed)) == parsed
