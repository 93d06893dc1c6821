from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.ledger import job_checks, write_checks
from services.ledger.definitions import normalised
from tests.unit.ledger.jobs import JOB_ID, POLICY
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_BATCH
from workmesh.errors import internal, to_status
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import STEP_KIND_TOOL
from workmesh.ledger.v1.job_pb2 import JournalStep, StateWrite

GOOD: dict[str, Any] = {
    "job_id": JOB_ID,
    "client_id": "acme",
    "request_id": JOB_ID,
    "request_digest": b"d" * 32,
    "agent": "booking",
    "version": 1,
    "pool": "default",
    "lane": LANE_BATCH,
    "fairness_key": "acme",
    "input": b"{}",
    "retry_policy": POLICY,
    "labels": {"trade/lane_1.a-b": "asia"},
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
}


def fields_of(found: list[Any]) -> set[str]:
    return {each.field for each in found}


def test_a_well_formed_job_has_no_faults() -> None:
    assert job_checks.new_job(pb.NewJob(**GOOD), "jobs[0]") == []


def policy(**fields: Any) -> Any:
    made = type(POLICY)()
    made.CopyFrom(POLICY)
    for name, value in fields.items():
        if isinstance(value, Duration):
            getattr(made, name).CopyFrom(value)
        elif isinstance(value, list):
            getattr(made, name).extend(value)
        else:
            setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("field", "value", "at"),
    [
        ("job_id", "01890000", "job_id"),
        ("job_id", JOB_ID.upper().replace("1", "A"), "job_id"),
        ("request_id", "", "request_id"),
        ("client_id", "Acme", "client_id"),
        ("agent", "a\0", "agent"),
        ("pool", "", "pool"),
        ("version", 0, "version"),
        ("version", -1, "version"),
        ("lane", 0, "lane"),
        ("lane", 9, "lane"),
        ("request_digest", b"short", "request_digest"),
        ("fairness_key", "", "fairness_key"),
        ("fairness_key", "k" * 129, "fairness_key"),
        ("fairness_key", "k\0", "fairness_key"),
        ("input", b"", "input"),
        ("input", b"[]", "input"),
        ("input", b'{"a":"\xff"}', "input"),
        ("input", b'{"a":"%s"}' % (b"x" * (1 << 20)), "input"),
        ("run_time_micros", -1, "run_time_micros"),
        ("deadline_micros", -1, "deadline_micros"),
        ("traceparent", "00-zz", "traceparent"),
        ("labels", {"Trade": ""}, "labels"),
        ("labels", {"a": "\0"}, "labels.a"),
        ("labels", {"a": "v" * 257}, "labels.a"),
        ("labels", {f"k{number}": "" for number in range(33)}, "labels"),
        ("retry_policy", policy(max_attempts=0), "retry_policy.max_attempts"),
        ("retry_policy", policy(max_attempts=101), "retry_policy.max_attempts"),
        ("retry_policy", policy(multiplier=0.5), "retry_policy.multiplier"),
        ("retry_policy", policy(multiplier=float("nan")), "retry_policy.multiplier"),
        ("retry_policy", policy(initial_delay=Duration(nanos=1)), "retry_policy.initial_delay"),
        ("retry_policy", policy(max_delay=Duration(seconds=86_401)), "retry_policy.max_delay"),
        ("retry_policy", policy(non_retryable_reasons=["R"] * 33), "retry_policy.non_retryable_reasons"),
    ],
)
def test_a_fault_of_a_job_is_named(field: str, value: object, at: str) -> None:
    job = pb.NewJob(**{**GOOD, field: value})
    assert fields_of(job_checks.new_job(job, "jobs[3]")) == {f"jobs[3].{at}"}


ATTEMPT = pb.AttemptRef(job_id=JOB_ID, epoch=1)
STEP = JournalStep(step="1", kind=STEP_KIND_TOOL, name="erp.post", result=b"{}")


def commit(**fields: Any) -> list[Any]:
    return write_checks.commit(pb.CommitAttempt(**{"attempt": ATTEMPT, "output": b"{}", **fields}), "a[0]")


def test_a_well_formed_commit_has_no_faults() -> None:
    assert commit(steps=[STEP], state_writes=[StateWrite(collection="c", key="k", body=b"1")]) == []


def changed(**fields: Any) -> JournalStep:
    step = JournalStep()
    step.CopyFrom(STEP)
    for name, value in fields.items():
        setattr(step, name, value)
    return step


def failed_without_code() -> JournalStep:
    step = changed()
    step.error.message = "no code"
    return step


@pytest.mark.parametrize(
    ("fields", "at"),
    [
        ({"attempt": pb.AttemptRef(job_id="x", epoch=1)}, "attempt.job_id"),
        ({"attempt": pb.AttemptRef(job_id=JOB_ID)}, "attempt.epoch"),
        ({"output": b""}, "output"),
        ({"output": b"[1]"}, "output"),
        ({"output": b'{"a":NaN}'}, "output"),
        ({"output": b'"%s"' % (b"x" * (1 << 20))}, "output"),
        ({"steps": [changed(step="")]}, "steps[0]"),
        ({"steps": [changed(name="n\0")]}, "steps[0]"),
        ({"steps": [changed(kind=0)]}, "steps[0].kind"),
        ({"steps": [changed(arguments_digest=b"x")]}, "steps[0].arguments_digest"),
        ({"steps": [changed(result=b"{")]}, "steps[0].result"),
        ({"steps": [JournalStep(step="1", kind=STEP_KIND_TOOL, name="n")]}, "steps[0].outcome"),
        ({"steps": [failed_without_code()]}, "steps[0].error.code"),
        ({"steps": [STEP] * 257}, "steps"),
        ({"state_writes": [StateWrite(collection="C", key="k", body=b"1")]}, "state_writes[0].collection"),
        ({"state_writes": [StateWrite(collection="c", key="", body=b"1")]}, "state_writes[0].key"),
        ({"state_writes": [StateWrite(collection="c", key="k" * 257, body=b"1")]}, "state_writes[0].key"),
        ({"state_writes": [StateWrite(collection="c", key="k", body=b"")]}, "state_writes[0].body"),
        (
            {"state_writes": [StateWrite(collection="c", key="k", body=b"1", expected_version=-1)]},
            "state_writes[0].expected_version",
        ),
    ],
)
def test_a_fault_of_a_commit_is_named(fields: dict[str, Any], at: str) -> None:
    assert fields_of(commit(**fields)) == {f"a[0].{at}"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (write_checks.begin(pb.BeginAttempt(), "a"), {"a.job_id", "a.lease_id", "a.dispatch"}),
        (write_checks.renew(pb.AttemptRef(), "a"), {"a.job_id", "a.epoch"}),
        (write_checks.record(pb.RecordSteps(attempt=ATTEMPT), "a"), {"a.steps"}),
        (write_checks.fail(pb.FailAttempt(attempt=ATTEMPT), "a"), {"a.verdict", "a.error.code"}),
        (
            write_checks.fail(
                pb.FailAttempt(attempt=ATTEMPT, verdict=pb.FailAttempt.VERDICT_RETRY, retry_after_micros=-1),
                "a",
            ),
            {"a.error.code", "a.retry_after_micros"},
        ),
        (
            write_checks.fail(pb.FailAttempt(attempt=ATTEMPT, verdict=pb.FailAttempt.VERDICT_RETURN), "a"),
            set(),
        ),
        (
            write_checks.fail(
                pb.FailAttempt(
                    attempt=ATTEMPT, verdict=pb.FailAttempt.VERDICT_FAIL, error=to_status(internal())
                ),
                "a",
            ),
            set(),
        ),
        (
            write_checks.cancel(pb.CancelJob(job_id="x", client_id="X", reason="r" * 257), "j"),
            {"j.job_id", "j.client_id", "j.reason"},
        ),
        (
            write_checks.claim(pb.ClaimEffect(attempt=ATTEMPT), "e"),
            {"e.step", "e.tool", "e.arguments_digest", "e.call_deadline_micros"},
        ),
        (
            write_checks.settle(pb.SettleEffect(job_id=JOB_ID, result=b"1"), "e"),
            {"e.series", "e.step", "e.source", "e.result"},
        ),
    ],
)
def test_faults_of_the_other_items_are_named(found: list[Any], expected: set[str]) -> None:
    assert fields_of(found) == expected


def test_definitions_are_checked_with_their_defaults_in_place() -> None:
    bare = AgentDefinition(agent="booking", code=CodeHandler(handler="booking"))
    bare.retry_policy.max_attempts = 5
    assert job_checks.definition(normalised(bare), "d") == []
    bare.attempt_timeout.seconds = 86_401
    bare.tools.append("no-operation")
    assert fields_of(job_checks.definition(normalised(bare), "d")) == {"d.attempt_timeout", "d.tools"}
