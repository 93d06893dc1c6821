"""The rules of a submission, one by one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from services.gateway.definitions import compile_definition
from services.gateway.identity import Caller
from services.gateway.submissions import accept, check_form
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import LANE_BATCH, LANE_CRITICAL, LANE_STANDARD
from workmesh.errors import MeshError
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.ledger.v1.ledger_write_service_pb2 import NewJob

NOW = 1_800_000_000_000_000
SECOND = 1_000_000
CALLER = Caller("freight", frozenset())


def submission(**fields: Any) -> JobSubmission:
    job = JobSubmission(request_id=str(uuid.uuid4()), agent="booking")
    for name, value in fields.items():
        setattr(job, name, value)
    return job


def accepted(job: JobSubmission, definition: AgentDefinition | None = None) -> NewJob:
    told = definition or AgentDefinition(agent="booking", version=3)
    return accept(check_form(job, NOW, "job"), compile_definition(told), CALLER, "job")


def violations(act: Callable[[], object]) -> list[str]:
    with pytest.raises(MeshError) as caught:
        act()
    assert caught.value.code.name == "INVALID_ARGUMENT"
    return [each.field for each in caught.value.violations]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"request_id": ""}, "job.request_id"),
        ({"request_id": "not-a-uuid"}, "job.request_id"),
        ({"agent": ""}, "job.agent"),
        ({"agent": "Booking"}, "job.agent"),
        ({"agent": "a\0"}, "job.agent"),
        ({"version": -1}, "job.version"),
        ({"lane": 9}, "job.lane"),
        ({"fairness_key": "k" * 129}, "job.fairness_key"),
        ({"fairness_key": "a\0"}, "job.fairness_key"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], field: str) -> None:
    assert violations(lambda: check_form(submission(**fields), NOW, "job")) == [field]


def test_every_wrong_field_is_named_at_once() -> None:
    job = submission(request_id="x", agent="", lane=9)
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.request_id", "job.agent", "job.lane"]


def test_a_label_key_must_be_a_label_key() -> None:
    job = submission()
    job.labels["Not A Key"] = "value"
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.labels"]


def test_a_label_value_is_bounded() -> None:
    job = submission()
    job.labels["reference"] = "v" * 257
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.labels.reference"]


def test_a_deadline_in_the_past_is_refused() -> None:
    job = submission()
    job.deadline.FromMicroseconds(NOW - SECOND)
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.deadline"]


def test_a_deadline_before_the_run_time_is_refused() -> None:
    job = submission()
    job.run_time.FromMicroseconds(NOW + 10 * SECOND)
    job.deadline.FromMicroseconds(NOW + 5 * SECOND)
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.deadline"]


def test_an_impossible_time_is_refused() -> None:
    job = submission()
    job.run_time.seconds = -5
    job.deadline.nanos = 2_000_000_000
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.run_time", "job.deadline"]


def test_a_run_time_more_than_a_year_ahead_is_refused() -> None:
    job = submission()
    job.run_time.FromMicroseconds(NOW + 366 * 86_400 * SECOND)
    assert violations(lambda: check_form(job, NOW, "job")) == ["job.run_time"]


def test_a_past_run_time_means_at_once() -> None:
    job = submission()
    job.run_time.FromMicroseconds(NOW - SECOND)
    assert accepted(job).run_time_micros == 0


def test_a_retry_policy_is_checked_field_by_field() -> None:
    job = submission()
    job.retry_policy.max_attempts = 101
    job.retry_policy.multiplier = 0.5
    job.retry_policy.initial_delay.CopyFrom(Duration(nanos=1))
    assert violations(lambda: check_form(job, NOW, "job")) == [
        "job.retry_policy.max_attempts",
        "job.retry_policy.multiplier",
        "job.retry_policy.initial_delay",
    ]


def test_what_is_not_said_comes_from_the_definition_and_then_from_defaults() -> None:
    definition = AgentDefinition(agent="booking", version=3, pool="edge", lane=LANE_CRITICAL)
    definition.retry_policy.max_attempts = 4
    job = accepted(submission(), definition)
    assert (job.version, job.pool, job.lane, job.fairness_key) == (3, "edge", LANE_CRITICAL, "freight")
    assert (job.retry_policy.max_attempts, job.retry_policy.multiplier) == (4, 2.0)
    assert (job.retry_policy.initial_delay.seconds, job.retry_policy.max_delay.seconds) == (1, 60)
    assert accepted(submission()).lane == LANE_STANDARD
    assert accepted(submission(lane=LANE_BATCH), definition).lane == LANE_BATCH


def test_the_owner_is_the_caller_and_ids_are_minted() -> None:
    first, second = accepted(submission()), accepted(submission())
    assert first.client_id == "freight"
    assert first.job_id < second.job_id


def test_the_same_submission_has_the_same_digest_and_another_has_not() -> None:
    job = submission()
    job.input["container"] = "MSKU9070323"
    again = JobSubmission.FromString(job.SerializeToString())
    assert accepted(job).request_digest == accepted(again).request_digest
    again.input["container"] = "MSKU9070324"
    assert accepted(job).request_digest != accepted(again).request_digest


def test_an_input_that_does_not_match_the_schema_is_refused_by_its_path() -> None:
    definition = AgentDefinition(agent="booking", version=3)
    definition.input_schema.update(
        {"type": "object", "properties": {"weight": {"type": "number"}}, "required": ["weight"]}
    )
    job = submission()
    job.input["weight"] = "heavy"
    with pytest.raises(MeshError) as caught:
        accepted(job, definition)
    assert caught.value.reason == "SCHEMA_MISMATCH"
    assert [each.field for each in caught.value.violations] == ["job.input.weight"]


@pytest.mark.parametrize(
    ("value", "path"), [(float("nan"), "job.input.x"), (float("inf"), "job.input.x"), ("a\0b", "job.input.x")]
)
def test_values_that_json_cannot_carry_are_refused(value: float | str, path: str) -> None:
    job = submission()
    job.input["x"] = value
    assert violations(lambda: accepted(job)) == [path]


def test_a_malformed_traceparent_is_replaced() -> None:
    job = check_form(submission(), NOW, "job")
    definition = compile_definition(AgentDefinition(agent="booking", version=1))
    good = f"00-{'a' * 32}-{'b' * 16}-01"
    assert accept(job, definition, Caller("c", frozenset(), good), "job").traceparent == good
    assert accept(job, definition, Caller("c", frozenset(), "zz"), "job").traceparent.startswith("00-")
