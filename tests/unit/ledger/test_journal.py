from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import journal
from tests.unit.ledger.jobs import JOB_ID, job
from workmesh.errors import MeshError, internal, to_status
from workmesh.ledger.v1.event_pb2 import STEP_KIND_FUNCTION, STEP_KIND_TOOL
from workmesh.ledger.v1.job_pb2 import JournalStep


def step(name: str, result: bytes = b"1", kind: int = STEP_KIND_TOOL) -> JournalStep:
    return JournalStep(step=name, kind=kind, name="erp.post", arguments_digest=b"a" * 32, result=result)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([b"1", b"2"])), max_size=8))
def test_new_steps_count_on_and_a_contradiction_takes_nothing(plan: list[tuple[str, bytes]]) -> None:
    recorded = journal.recorded(journal.step_row(JOB_ID, 1, 0, 1, step("a")))
    known = {(JOB_ID, 1, "a"): recorded}
    outcomes: dict[str, bytes] = {"a": b"1"}
    contradicted = any(outcomes.setdefault(name, result) != result for name, result in plan)
    steps = [step(name, result) for name, result in plan]
    if contradicted:
        with pytest.raises(MeshError, match="STEP_CONFLICT"):
            journal.new_rows(job(step_count=1), 1, steps, known)
        return
    rows = journal.new_rows(job(step_count=1), 1, steps, known)
    assert [row.step for row in rows] == [name for name in dict(plan) if name != "a"]
    assert [row.ordinal for row in rows] == list(range(1, len(rows) + 1))


def test_the_same_step_of_another_kind_is_a_contradiction() -> None:
    known = {(JOB_ID, 1, "a"): journal.recorded(journal.step_row(JOB_ID, 1, 0, 1, step("a")))}
    with pytest.raises(MeshError, match="STEP_CONFLICT"):
        journal.new_rows(job(), 1, [step("a", kind=STEP_KIND_FUNCTION)], known)


@pytest.mark.parametrize("failed", [False, True])
def test_a_row_gives_back_the_step(failed: bool) -> None:
    given = step("2/1", b'{"rate":7}')
    given.start_time_micros, given.end_time_micros = 5, 9
    if failed:
        given.error.CopyFrom(to_status(internal()))
    row = journal.step_row(JOB_ID, 1, 3, 2, given)
    assert journal.step_of(row) == given
    trace = journal.digests_of([row])[0]
    assert (trace.step, trace.failed, len(trace.result_digest)) == ("2/1", failed, 32)
