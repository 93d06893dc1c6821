from __future__ import annotations

from tests.integration.ledger.harness import Ledger, new_job, reason
from workmesh.chain import digest
from workmesh.common.v1 import job_pb2
from workmesh.errors import from_status
from workmesh.ids import uuid7


async def test_a_new_job_is_stored_with_its_input_and_its_first_event(ledger: Ledger) -> None:
    job = new_job(labels={"trade": "asia", 'quo"te': ""} | {"x": 'a "quoted\\ {value}, NULL'})
    del job.labels['quo"te']
    result = (await ledger.create(job))[0]
    assert (reason(result.status), result.job_id, result.existing) == ("", job.job_id, False)

    row = await ledger.row(job.job_id)
    assert row["state"] == job_pb2.JOB_STATE_QUEUED
    assert (row["seq"], row["epoch"], row["attempt"], row["dispatch"]) == (1, 0, 0, 1)
    bodies = await ledger.sql("select kind, body from job_bodies where job_id = $1", job.job_id)
    assert [tuple(each) for each in bodies] == [("input", job.input)]
    event = (await ledger.history(job.job_id))[0]
    assert event.job_created.input_digest == digest(job.input)
    assert dict(event.job_created.labels) == {"trade": "asia", "x": 'a "quoted\\ {value}, NULL'}
    assert event.job_created.routing.dispatch == 1
    assert event.actor.id == "acme"
    assert event.actor.instance == "gateway-1"


async def test_a_job_with_a_start_in_the_future_is_scheduled(ledger: Ledger) -> None:
    soon = await ledger.job(run_time_micros=4_000_000_000_000_000)
    past = await ledger.job(run_time_micros=1)
    assert (await ledger.row(soon))["state"] == job_pb2.JOB_STATE_SCHEDULED
    assert (await ledger.row(past))["state"] == job_pb2.JOB_STATE_QUEUED


async def test_a_repeated_request_gets_the_first_job_and_another_body_is_refused(ledger: Ledger) -> None:
    first = new_job()
    await ledger.create(first)
    again = new_job(request_id=first.request_id, request_digest=first.request_digest)
    other = new_job(request_id=first.request_id, request_digest=b"o" * 32)
    foreign = new_job(request_id=first.request_id, client_id="globex")

    results = await ledger.create(again, other, foreign)
    assert (results[0].job_id, results[0].existing) == (first.job_id, True)
    assert reason(results[1].status) == "REQUEST_ID_REUSED"
    assert (results[2].job_id, results[2].existing) == (foreign.job_id, False)
    assert len(await ledger.history(first.job_id)) == 1


async def test_repeats_within_one_batch_make_one_job(ledger: Ledger) -> None:
    first, before = new_job(), await ledger.counts()
    results = await ledger.create(
        first, first, new_job(request_id=first.request_id, request_digest=b"o" * 32)
    )
    assert [each.existing for each in results[:2]] == [False, True]
    assert {each.job_id for each in results[:2]} == {first.job_id}
    assert reason(results[2].status) == "REQUEST_ID_REUSED"
    assert (await ledger.counts())["jobs"] == before["jobs"] + 1


async def test_an_id_that_another_job_has_is_replaced(ledger: Ledger) -> None:
    first = await ledger.job()
    taken = new_job(job_id=first)
    twice = uuid7()
    results = await ledger.create(taken, new_job(job_id=twice), new_job(job_id=twice))
    ids = [each.job_id for each in results]
    assert first not in ids
    assert twice in ids
    assert len(set(ids)) == 3
    repeat = (await ledger.create(taken))[0]
    assert (repeat.job_id, repeat.existing) == (ids[0], True)


async def test_an_unknown_definition_is_not_found_and_harms_no_other(ledger: Ledger) -> None:
    before = await ledger.counts()
    results = await ledger.create(new_job(version=7), new_job(), new_job(agent="nobody"))
    assert [reason(each.status) for each in results] == ["AGENT_NOT_FOUND", "", "AGENT_NOT_FOUND"]
    assert (await ledger.counts())["jobs"] == before["jobs"] + 1


async def test_malformed_jobs_are_refused_with_their_fields_and_leave_no_trace(ledger: Ledger) -> None:
    before = await ledger.counts()
    response = await ledger.call(
        "CreateJobs",
        jobs=[new_job(job_id="x", lane=0, labels={"UPPER": ""}), new_job(agent="a\0b", input=b"\xff")],
        instance="gateway-1",
    )
    fields = [{each.field for each in from_status(result.status).violations} for result in response.results]
    assert fields == [
        {"jobs[0].job_id", "jobs[0].lane", "jobs[0].labels"},
        {"jobs[1].agent", "jobs[1].input"},
    ]
    assert await ledger.counts() == before
