from __future__ import annotations

import asyncio
import time

import asyncpg
import grpc
import pytest

from tests.integration.ledger_reads.mesh import Ledger, step
from tests.integration.ledger_reads.served import Served, refused
from workmesh.common.v1 import job_pb2 as states
from workmesh.common.v1.job_pb2 import Lane
from workmesh.ids import uuid7
from workmesh.ledger.v1 import ledger_read_service_pb2 as pb
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt

HOUR_MICROS = 3_600_000_000


def now_micros() -> int:
    return time.time_ns() // 1_000


async def get(served: Served, *job_ids: str, **fields: object) -> list[pb.GetJobsResponse]:
    request = pb.GetJobsRequest(job_ids=job_ids, **fields)  # type: ignore[arg-type]
    return list((await served.reads.GetJobs(request, timeout=5)).jobs)  # type: ignore[arg-type]


async def test_a_job_is_returned_with_the_bodies_asked_for(ledger: Ledger, served: Served) -> None:
    (job_id,) = await ledger.create(
        agent="booking", lane=Lane.LANE_CRITICAL, labels={"port": "DEHAM"}, input=b'{"number":7}'
    )
    (epoch,) = await ledger.begin(job_id)
    await ledger.commit(job_id, epoch, b'{"order":"A7"}')
    request = pb.GetJobsRequest(job_ids=[job_id], with_input=True, with_output=True)
    (job,) = (await served.reads.GetJobs(request, timeout=5)).jobs
    assert (job.job_id, job.client_id, job.agent, job.version) == (job_id, "client-a", "booking", 1)
    assert (job.state, job.lane, job.pool) == (states.JOB_STATE_SUCCEEDED, Lane.LANE_CRITICAL, "default")
    assert (job.attempt, job.series, job.epoch, job.dispatch, job.seq) == (1, 1, 1, 1, 3)
    assert (job.input, job.output) == (b'{"number":7}', b'{"order":"A7"}')
    assert dict(job.labels) == {"port": "DEHAM"}
    assert job.retry_policy.max_attempts == 3
    assert job.traceparent.startswith("00-")
    assert job.create_time_micros <= job.update_time_micros <= now_micros()
    request = pb.GetJobsRequest(job_ids=[job_id])
    (bare,) = (await served.reads.GetJobs(request, timeout=5)).jobs
    assert (bare.input, bare.output) == (b"", b"")


async def test_jobs_come_in_the_order_asked_for_without_unknown_and_foreign_ones(
    ledger: Ledger, served: Served
) -> None:
    mine = await ledger.create(3)
    (theirs,) = await ledger.create(client_id="client-b")
    asked = [mine[2], uuid7(), theirs, mine[0], mine[2]]
    request = pb.GetJobsRequest(job_ids=asked, client_id="client-a")
    found = (await served.reads.GetJobs(request, timeout=5)).jobs
    assert [job.job_id for job in found] == [mine[2], mine[0], mine[2]]
    found = (await served.reads.GetJobs(pb.GetJobsRequest(job_ids=asked), timeout=5)).jobs
    assert [job.job_id for job in found] == [mine[2], theirs, mine[0], mine[2]]


async def test_a_thousand_jobs_are_returned_at_once_and_not_more(ledger: Ledger, served: Served) -> None:
    job_ids = [job_id for _ in range(5) for job_id in await ledger.create(200)]
    response = await served.reads.GetJobs(pb.GetJobsRequest(job_ids=job_ids), timeout=10)
    assert [job.job_id for job in response.jobs] == job_ids
    error = await refused(served.reads.GetJobs(pb.GetJobsRequest(job_ids=[*job_ids, uuid7()]), timeout=5))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "job_ids")


async def test_concurrent_look_ups_share_statements(ledger: Ledger, served: Served) -> None:
    job_ids = await ledger.create(64)
    before = served.jobs.stats().batches
    responses = await asyncio.gather(
        *(served.reads.GetJobs(pb.GetJobsRequest(job_ids=[job_id]), timeout=10) for job_id in job_ids)
    )
    assert [response.jobs[0].job_id for response in responses] == job_ids
    assert served.jobs.stats().batches - before < 32


async def test_malformed_ids_are_refused_by_name_and_harm_no_other_caller(
    ledger: Ledger, served: Served
) -> None:
    (job_id,) = await ledger.create()
    bad = pb.GetJobsRequest(job_ids=[job_id, "not-a-uuid", job_id.upper()], client_id="Not a name")
    good = pb.GetJobsRequest(job_ids=[job_id])
    error, response = await asyncio.gather(
        refused(served.reads.GetJobs(bad, timeout=5)), served.reads.GetJobs(good, timeout=5)
    )
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["job_ids[1]", "job_ids[2]", "client_id"]
    assert response.jobs[0].job_id == job_id


async def test_bodies_too_large_for_one_answer_are_refused_and_fewer_are_not(
    ledger: Ledger, served: Served
) -> None:
    body = b'{"x":"' + b"y" * 1_000_000 + b'"}'
    job_ids = await ledger.create(5, input=body)
    error = await refused(
        served.reads.GetJobs(pb.GetJobsRequest(job_ids=job_ids, with_input=True), timeout=10)
    )
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
    request = pb.GetJobsRequest(job_ids=job_ids[:3], with_input=True)
    response = await served.reads.GetJobs(request, timeout=10)
    assert [len(job.input) for job in response.jobs] == [len(body)] * 3


async def test_a_scheduled_job_whose_time_has_come_is_reported_queued(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    (later, due) = await ledger.create(2, run_time_micros=now_micros() + HOUR_MICROS)
    await superuser.execute("update jobs set run_time_micros = $2 where job_id = $1", due, now_micros() - 1)
    jobs = (await served.reads.GetJobs(pb.GetJobsRequest(job_ids=[later, due]), timeout=5)).jobs
    assert [job.state for job in jobs] == [states.JOB_STATE_SCHEDULED, states.JOB_STATE_QUEUED]
    for state, job_id in ((states.JOB_STATE_SCHEDULED, later), (states.JOB_STATE_QUEUED, due)):
        listed = await served.reads.ListJobs(pb.ListJobsRequest(states=[state]), timeout=5)
        assert [(job.job_id, job.state) for job in listed.jobs] == [(job_id, state)]
    counts = (await served.reads.CountJobs(pb.CountJobsRequest(), timeout=5)).counts
    assert {count.state: count.count for count in counts} == {
        states.JOB_STATE_SCHEDULED: 1,
        states.JOB_STATE_QUEUED: 1,
    }


async def test_lists_page_through_all_jobs_newest_first(ledger: Ledger, served: Served) -> None:
    job_ids = [job_id for _ in range(5) for job_id in await ledger.create(5)]
    await ledger.create(3, client_id="client-b")
    for client_id, expected in (("client-a", 25), ("", 28)):
        seen: list[str] = []
        request = pb.ListJobsRequest(client_id=client_id, page_size=10)
        while True:
            response = await served.reads.ListJobs(request, timeout=5)
            seen += [job.job_id for job in response.jobs]
            if not response.next_page_token:
                break
            assert len(response.jobs) == 10
            request.page_token = response.next_page_token
        assert seen == sorted(seen, reverse=True)
        assert len(seen) == len(set(seen)) == expected
        assert set(job_ids) <= set(seen)


async def test_a_page_that_ends_exactly_has_no_next(ledger: Ledger, served: Served) -> None:
    await ledger.create(10)
    response = await served.reads.ListJobs(pb.ListJobsRequest(page_size=10), timeout=5)
    assert len(response.jobs) == 10
    assert not response.next_page_token


async def test_jobs_made_while_paging_neither_shift_nor_repeat_the_rest(
    ledger: Ledger, served: Served
) -> None:
    old = await ledger.create(6)
    request = pb.ListJobsRequest(client_id="client-a", page_size=3)
    first = await served.reads.ListJobs(request, timeout=5)
    await ledger.create(4)
    request.page_token = first.next_page_token
    second = await served.reads.ListJobs(request, timeout=5)
    listed = [job.job_id for job in (*first.jobs, *second.jobs)]
    assert listed == sorted(old, reverse=True)
    assert not second.next_page_token


async def test_lists_filter_by_agent_state_label_and_lane(ledger: Ledger, served: Served) -> None:
    (done,) = await ledger.run(1, agent="document", lane=Lane.LANE_BATCH, labels={"port": "DEHAM", "x": "1"})
    (queued,) = await ledger.create(agent="booking", labels={"port": "DEHAM"})

    async def listed(**fields: object) -> list[str]:
        request = pb.ListJobsRequest(**fields)  # type: ignore[arg-type]
        response = await served.reads.ListJobs(request, timeout=5)
        return [job.job_id for job in response.jobs]

    assert await listed(agent="document") == [done]
    assert await listed(client_id="client-a", agent="booking") == [queued]
    assert await listed(states=[states.JOB_STATE_SUCCEEDED, states.JOB_STATE_FAILED]) == [done]
    assert await listed(labels={"port": "DEHAM"}) == [queued, done]
    assert await listed(labels={"port": "DEHAM", "x": "1"}) == [done]
    assert await listed(labels={"x": "2"}) == []
    assert await listed(lane=Lane.LANE_BATCH) == [done]
    assert await listed(client_id="client-z") == []


async def test_a_page_token_of_another_filter_is_refused(ledger: Ledger, served: Served) -> None:
    await ledger.create(3)
    first = await served.reads.ListJobs(pb.ListJobsRequest(client_id="client-a", page_size=1), timeout=5)
    for request in (
        pb.ListJobsRequest(client_id="client-b", page_token=first.next_page_token),
        pb.ListJobsRequest(client_id="client-a", page_token=first.next_page_token[:-2]),
        pb.ListJobsRequest(client_id="client-a", page_size=-1),
    ):
        error = await refused(served.reads.ListJobs(request, timeout=5))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.violations[0].field in ("page_token", "page_size")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListJobsRequest(labels={"a\0": "b"}), "labels['a\\x00']"),
        (pb.ListJobsRequest(labels={"a": "\0"}), "labels['a']"),
        (pb.ListJobsRequest(agent="Nope"), "agent"),
        (pb.ListJobsRequest(client_id="a\0b"), "client_id"),
        (pb.ListJobsRequest(states=[states.JOB_STATE_QUEUED, 99]), "states[1]"),  # type: ignore[list-item]
        (pb.ListJobsRequest(lane=9), "lane"),  # type: ignore[arg-type]
    ],
)
async def test_bad_filters_are_refused_by_name(
    served: Served, request_: pb.ListJobsRequest, field: str
) -> None:
    error = await refused(served.reads.ListJobs(request_, timeout=5))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


async def test_a_history_has_the_journal_and_all_events_in_order(ledger: Ledger, served: Served) -> None:
    (job_id,) = await ledger.create()
    (epoch,) = await ledger.begin(job_id)
    await ledger.record(job_id, epoch, step("1"), step("2"))
    await ledger.commit(job_id, epoch, steps=[step("3", b'{"last":1}')])
    request = pb.GetJobHistoryRequest(job_id=job_id, client_id="client-a")
    history = await served.reads.GetJobHistory(request, timeout=5)
    assert history.job.state == states.JOB_STATE_SUCCEEDED
    assert [each.step for each in history.journal] == ["1", "2", "3"]
    assert history.journal[2].result == b'{"last":1}'
    assert [recorded.event.seq for recorded in history.events] == [1, 2, 3, 4]
    assert [recorded.event.WhichOneof("payload") for recorded in history.events] == [
        "job_created",
        "attempt_begun",
        "steps_recorded",
        "job_succeeded",
    ]
    places = {(recorded.chain, recorded.height, recorded.index) for recorded in history.events}
    assert len(places) == 4
    assert all(chain and height for chain, height, _ in places)


async def test_the_history_of_an_unknown_or_foreign_job_is_not_found(ledger: Ledger, served: Served) -> None:
    (job_id,) = await ledger.create()
    for request in (
        pb.GetJobHistoryRequest(job_id=uuid7()),
        pb.GetJobHistoryRequest(job_id=job_id, client_id="client-b"),
    ):
        error = await refused(served.reads.GetJobHistory(request, timeout=5))
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")


async def test_an_error_is_part_of_the_job(ledger: Ledger, served: Served) -> None:
    (job_id,) = await ledger.create()
    (epoch,) = await ledger.begin(job_id)
    await ledger.fail(job_id, epoch, FailAttempt.VERDICT_FAIL)
    (job,) = (await served.reads.GetJobs(pb.GetJobsRequest(job_ids=[job_id]), timeout=5)).jobs
    assert job.state == states.JOB_STATE_FAILED
    assert job.error.message == "it went wrong"
