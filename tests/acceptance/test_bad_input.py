"""Bad input gets the code of the contract with details, leaves no trace, and is never an internal error."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tests.acceptance.client import CALL_SECONDS, MeshClient, refused, status_of, submission
from workmesh.gateway.v1 import job_service_pb2 as pb
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.local.stack import Stack

# What the client has in each table, and bodies and steps that belong to no job.
COUNTS = {
    "jobs": "select count(*) from jobs where client_id = $1",
    "events": "select count(*) from events where client_id = $1",
    "state_documents": "select count(*) from state_documents where client_id = $1",
    "state_versions": "select count(*) from state_versions where client_id = $1",
    "job_bodies": "select count(*) from job_bodies b where not exists"
    " (select from jobs j where j.job_id = b.job_id and j.client_id <> $1)",
    "steps": "select count(*) from steps s where not exists"
    " (select from jobs j where j.job_id = s.job_id and j.client_id <> $1)",
}
NOTHING = dict.fromkeys(COUNTS, 0)


async def stored(stack: Stack, client_name: str) -> dict[str, int]:
    """Count the rows that a client, or nobody, has in every table that bad input might reach."""
    connection = await asyncpg.connect(stack.database_url("postgres"))
    try:
        return {table: await connection.fetchval(query, client_name) for table, query in COUNTS.items()}
    finally:
        await connection.close()


def deep(levels: int) -> list[object]:
    """Lists within lists: objects so deep would not even be a message."""
    document: list[object] = []
    for _ in range(levels - 1):
        document = [document]
    return document


def nan() -> JobSubmission:
    job = submission("echo", {"text": "x"})
    job.input["number"] = float("nan")
    return job


def nul() -> JobSubmission:
    return submission("echo", {"text": "a\0b"})


def deeply() -> JobSubmission:
    return submission("echo", {"text": "x", "nested": {"list": deep(31)}})


CASES: dict[str, tuple[Callable[[], JobSubmission], str, str, str]] = {
    "oversized": (
        lambda: submission("echo", {"text": "x" * (1 << 20)}),
        "INVALID_ARGUMENT",
        "PAYLOAD_TOO_LARGE",
        "job.input",
    ),
    "wrong type": (
        lambda: submission("echo", {"text": 5}),
        "INVALID_ARGUMENT",
        "SCHEMA_MISMATCH",
        "job.input.text",
    ),
    "missing field": (lambda: submission("echo", {}), "INVALID_ARGUMENT", "SCHEMA_MISMATCH", "job.input"),
    "unknown agent": (lambda: submission("nobody", {}), "NOT_FOUND", "AGENT_NOT_FOUND", ""),
    "unknown version": (
        lambda: submission("echo", {"text": "x"}, version=99),
        "NOT_FOUND",
        "AGENT_NOT_FOUND",
        "",
    ),
    "no agent": (lambda: submission("", {}), "INVALID_ARGUMENT", "INVALID_FIELD", "job.agent"),
    "no request id": (
        lambda: submission("echo", {"text": "x"}, request_id=""),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "job.request_id",
    ),
    "U+0000": (nul, "INVALID_ARGUMENT", "INVALID_FIELD", "job.input.text"),
    "NaN": (nan, "INVALID_ARGUMENT", "INVALID_FIELD", "job.input.number"),
    "unknown lane": (
        lambda: submission("echo", {"text": "x"}, lane=77),
        "INVALID_ARGUMENT",
        "INVALID_FIELD",
        "job.lane",
    ),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_submission_is_refused_and_leaves_no_trace(
    case: str, client: MeshClient, client_name: str, mesh: Stack
) -> None:
    make, code, reason, field = CASES[case]
    error = await refused(client.submit(make()))
    assert (error.code.name, error.reason) == (code, reason)
    if field:
        assert [each.field for each in error.violations] == [field]
    assert await stored(mesh, client_name) == NOTHING


async def test_what_is_stored_of_a_good_submission_is_counted(
    client: MeshClient, client_name: str, mesh: Stack
) -> None:
    await client.result(await client.submit(submission("echo", {"text": "x"})))
    assert await stored(mesh, client_name) == {
        **NOTHING,
        "jobs": 1,
        "events": 3,
        "job_bodies": 2,
        "steps": 1,
    }


async def test_one_bad_submission_in_a_batch_of_256_harms_no_other(client: MeshClient) -> None:
    jobs = [submission("echo", {"text": str(index)}) for index in range(256)]
    jobs[100] = nan()
    results = await client.submit_all(jobs)
    assert [index for index, each in enumerate(results) if each.status.code] == [100]
    error = status_of(results[100])
    assert error.code.name == "INVALID_ARGUMENT"
    assert [each.field for each in error.violations] == ["jobs[100].input.number"]
    assert len({each.job_id for each in results if each.job_id}) == 255


async def test_a_submission_nested_too_deeply_is_refused(client: MeshClient) -> None:
    error = await refused(client.submit(deeply()))
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [each.field for each in error.violations] == ["job.input"]


async def test_every_kind_of_bad_submission_fits_in_one_batch_with_good_ones(client: MeshClient) -> None:
    jobs = [make() for make, *_ in CASES.values()] + [submission("echo", {"text": "good"})]
    results = await client.submit_all(jobs)
    for result, (_, code, reason, _) in zip(results, CASES.values(), strict=False):
        assert (status_of(result).code.name, status_of(result).reason) == (code, reason)
    assert results[-1].job_id


@pytest.mark.parametrize("method", ["SubmitJob", "SubmitJobs", "GetJob", "ListJobs", "CancelJob"])
async def test_bytes_that_are_no_message_are_bad_input(method: str, client: MeshClient) -> None:
    call: Any = client.channel.unary_unary(f"/workmesh.gateway.v1.JobService/{method}")
    error = await refused(call(b"\xff\xff\xff", metadata=client.metadata, timeout=CALL_SECONDS))
    assert error.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("size", [0, 1_001])
async def test_a_batch_has_at_least_one_and_at_most_a_thousand_jobs(size: int, client: MeshClient) -> None:
    jobs = [submission("echo", {"text": "x"}) for _ in range(size)]
    error = await refused(client.submit_all(jobs))
    assert (error.code.name, [each.field for each in error.violations]) == ("INVALID_ARGUMENT", ["jobs"])


@pytest.mark.parametrize("job_id", ["", "x", "00000000-0000-0000-0000-00000000000Z", "a\0b", "x" * 10_000])
async def test_a_job_id_that_is_none_is_bad_input(job_id: str, client: MeshClient) -> None:
    for call in (client.get(job_id), client.cancel(job_id), client.result(job_id)):
        error = await refused(call)
        assert (error.code.name, [each.field for each in error.violations]) == (
            "INVALID_ARGUMENT",
            ["job_id"],
        )


async def test_a_job_that_does_not_exist_is_not_found(client: MeshClient) -> None:
    for call in (client.get(str(uuid.uuid4())), client.cancel(str(uuid.uuid4()))):
        assert (await refused(call)).code.name == "NOT_FOUND"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"agent": "a\0"}, "agent"),
        ({"labels": {"a": "b\0"}}, "labels"),
        ({"states": [99]}, "states"),
    ],
)
async def test_a_bad_list_request_is_refused(
    fields: dict[str, object], field: str, client: MeshClient
) -> None:
    request = pb.ListJobsRequest(**fields)  # type: ignore[arg-type]
    error = await refused(client.jobs.ListJobs(request, metadata=client.metadata, timeout=CALL_SECONDS))
    assert error.code.name == "INVALID_ARGUMENT"
    assert [each.field.split("[")[0].split(".")[0] for each in error.violations] == [field]


async def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives(client: MeshClient) -> None:
    huge = submission("echo", {"text": "x" * (6 << 20)})
    error = await refused(client.submit(huge))
    assert error.code.name in {"RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"}
    assert await client.submit(submission("echo", {"text": "after"}))
