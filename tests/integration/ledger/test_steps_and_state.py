from __future__ import annotations

import asyncio

from tests.integration.ledger.harness import Ledger, error, reason, state, step
from workmesh.common.v1 import job_pb2
from workmesh.errors import from_status
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb


async def test_recording_a_step_again_is_ok_and_another_outcome_is_a_conflict(ledger: Ledger) -> None:
    attempt = await ledger.running()
    first = step("1", result=1)
    assert reason((await ledger.record(attempt, first)).status) == ""
    assert reason((await ledger.record(attempt, first)).status) == ""
    assert reason((await ledger.record(attempt, first, step("2"))).status) == ""
    refused = await ledger.record(attempt, step("3"), step("1", result=2))
    assert reason(refused.status) == "STEP_CONFLICT"
    assert from_status(refused.status).metadata["step"] == "1"
    rows = await ledger.sql(
        "select step, ordinal from steps where job_id = $1 order by ordinal", attempt.job_id
    )
    assert [tuple(row) for row in rows] == [("1", 0), ("2", 1)]
    assert (await ledger.types(attempt.job_id)).count("steps_recorded") == 2


async def test_a_step_twice_in_one_item_counts_once(ledger: Ledger) -> None:
    attempt = await ledger.running()
    assert reason((await ledger.record(attempt, step("1"), step("1"), step("2"))).status) == ""
    recorded = (await ledger.history(attempt.job_id))[-1].steps_recorded
    assert [each.step for each in recorded.steps] == ["1", "2"]
    assert reason((await ledger.record(attempt, step("3"), step("3", result=9))).status) == "STEP_CONFLICT"


async def test_a_commit_may_repeat_recorded_steps_but_not_contradict_them(ledger: Ledger) -> None:
    attempt = await ledger.running()
    await ledger.record(attempt, step("1", result=1))
    refused = await ledger.commit(attempt, steps=[step("1", result=2), step("2")])
    assert reason(refused.status) == "STEP_CONFLICT"
    assert (await ledger.row(attempt.job_id))["state"] == job_pb2.JOB_STATE_RUNNING
    assert reason((await ledger.commit(attempt, steps=[step("1", result=1), step("2")])).status) == ""
    steps = (await ledger.history(attempt.job_id))[-1].job_succeeded.steps
    assert [each.step for each in steps] == ["2"]


async def test_a_failed_step_is_journaled_with_its_error(ledger: Ledger) -> None:
    attempt = await ledger.running()
    failed = step("1")
    failed.error.CopyFrom(error())
    await ledger.record(attempt, failed)
    await ledger.fail(attempt, pb.FailAttempt.VERDICT_RETURN)
    grant = (await ledger.begin(attempt.job_id, dispatch=2)).grant
    assert list(grant.journal) == [failed]
    digests = (await ledger.history(attempt.job_id))[2].steps_recorded.steps
    assert digests[0].failed


async def test_a_conflicting_write_changes_nothing_and_returns_the_documents(ledger: Ledger) -> None:
    first = await ledger.running(client_id=ledger.client)
    await ledger.commit(first, state_writes=[state("S1", {"eta": 1}, 0)])
    second = await ledger.running(client_id=ledger.client)
    writes = [state("S1", {"eta": 2}, 0), state("S2", {}, 0), state("S3", {}, 4)]
    refused = await ledger.commit(second, steps=[step("1")], state_writes=writes)
    assert reason(refused.status) == "STATE_CONFLICT"
    found = [(each.key, each.version, each.body, each.job_id) for each in refused.conflicts]
    assert found == [("S1", 1, b'{"eta":1}', first.job_id), ("S3", 0, b"", "")]
    assert (await ledger.row(second.job_id))["state"] == job_pb2.JOB_STATE_RUNNING
    assert await ledger.types(second.job_id) == ["job_created", "attempt_begun"]
    assert reason((await ledger.commit(second, state_writes=[state("S1", {"eta": 2}, 1)])).status) == ""
    rows = await ledger.sql("select key, version from state_documents where client_id = $1", ledger.client)
    assert [tuple(row) for row in rows] == [("S1", 2)]


async def test_one_document_written_more_than_once_keeps_every_version(ledger: Ledger) -> None:
    attempt = await ledger.running(client_id=ledger.client)
    writes = [state("S1", 1, 0), state("S1", 2, 1), state("S1", 3)]
    assert reason((await ledger.commit(attempt, state_writes=writes)).status) == ""
    rows = await ledger.sql(
        "select version, body from state_versions where client_id = $1 order by version", ledger.client
    )
    assert [tuple(row) for row in rows] == [(1, b"1"), (2, b"2"), (3, b"3")]
    events = [event.state_written.version for event in (await ledger.history(attempt.job_id))[2:5]]
    assert events == [1, 2, 3]


async def test_one_document_written_by_many_jobs_of_a_batch_keeps_every_version_in_order(
    ledger: Ledger,
) -> None:
    attempts = [await ledger.running(client_id=ledger.client) for _ in range(12)]
    commits = [
        pb.CommitAttempt(attempt=each, output=b"{}", state_writes=[state("S1", place), state("S2", place)])
        for place, each in enumerate(attempts)
    ]
    response = await ledger.call("CommitAttempts", attempts=commits, instance="agent-1")
    assert {reason(each.status) for each in response.results} == {""}
    rows = await ledger.sql(
        "select key, version, body from state_versions where client_id = $1 order by key, version",
        ledger.client,
    )
    expected = [(key, place + 1, b"%d" % place) for key in ("S1", "S2") for place in range(12)]
    assert [tuple(row) for row in rows] == expected


async def test_a_conflict_within_a_batch_sees_what_its_neighbours_wrote(ledger: Ledger) -> None:
    attempts = [await ledger.running(client_id=ledger.client) for _ in range(3)]
    commits = [
        pb.CommitAttempt(attempt=each, output=b"{}", state_writes=[state("S1", place, 0)])
        for place, each in enumerate(attempts)
    ]
    response = await ledger.call("CommitAttempts", attempts=commits, instance="agent-1")
    assert [reason(each.status) for each in response.results] == ["", "STATE_CONFLICT", "STATE_CONFLICT"]
    assert [(each.version, each.body) for each in response.results[1].conflicts] == [(1, b"0")]


async def test_steps_recorded_and_committed_in_one_batch_keep_their_order(ledger: Ledger) -> None:
    attempt = await ledger.running()
    recorded, recorded_too, committed = await asyncio.gather(
        ledger.record(attempt, step("1")),
        ledger.record(attempt, step("2")),
        ledger.commit(attempt, steps=[step("3")]),
    )
    assert [reason(each.status) for each in (recorded, recorded_too, committed)] == ["", "", ""]
    rows = await ledger.sql("select step from steps where job_id = $1 order by ordinal", attempt.job_id)
    assert [row[0] for row in rows] == ["1", "2", "3"]
