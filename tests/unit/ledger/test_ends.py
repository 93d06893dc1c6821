from __future__ import annotations

from typing import Any

import pytest
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from services.ledger import cancels, commits, effects, failures, jobs, leases
from services.ledger.documents import Conflict, Key
from services.ledger.items import DONE, Cancel, Claim, Commit, Fail, Moved, Record, Renew, Renewed
from services.ledger.jobs import JobRow
from services.ledger.journal import Recorded
from tests.unit.ledger.jobs import ALLOWANCE, JOB_ID, LEASE, NOW, POLICY, RULES, job, running
from workmesh.chain import digest
from workmesh.errors import MeshError, aborted, from_status, to_status
from workmesh.ledger.v1.event_pb2 import STEP_KIND_TOOL, Actor
from workmesh.ledger.v1.job_pb2 import JournalStep, StateWrite
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt

ACTOR = Actor(kind=Actor.KIND_OPERATOR, id="olga")
ERROR = to_status(aborted("HANDLER_FAILED", "line 17 of order 4711 is empty", order="4711"))


def fail(verdict: Any, *, error: Status = ERROR, retry_after: int = 0, epoch: int = 1) -> Fail:
    return Fail(JOB_ID, epoch, verdict, error, retry_after, (), "agent-1", 1)


def step(name: str, result: bytes = b"1") -> JournalStep:
    return JournalStep(step=name, kind=STEP_KIND_TOOL, name="erp.post", result=result)


def known(name: str, result: bytes = b"1") -> dict[tuple[str, int, str], Recorded]:
    return {(JOB_ID, 1, name): Recorded(STEP_KIND_TOOL, "erp.post", b"", digest(result))}


def reason(outcome: object) -> str:
    return outcome.reason if isinstance(outcome, MeshError) else ""


RETRY, FAIL, LETTER = failures.RETRY, failures.FAIL, failures.DEAD_LETTER
RETURN, CANCEL = failures.RETURN, failures.CANCEL

VERDICTS: dict[str, tuple[JobRow, Fail, Any, str]] = {
    "retry": (running(), fail(RETRY), jobs.SCHEDULED, "attempt_failed"),
    "retry of the last attempt": (running(attempt=3), fail(RETRY), jobs.DEAD_LETTERED, "job_dead_lettered"),
    "retry past the deadline": (
        running(deadline_micros=NOW + 500_000),
        fail(RETRY),
        jobs.FAILED,
        "job_failed",
    ),
    "retry of a cancelled job": (
        running(cancel_requested=True),
        fail(RETRY),
        jobs.CANCELLED,
        "job_cancelled",
    ),
    "return": (running(), fail(RETURN), jobs.QUEUED, "attempt_returned"),
    "return of the last attempt": (running(attempt=3), fail(RETURN), jobs.QUEUED, "attempt_returned"),
    "return of a cancelled job": (
        running(cancel_requested=True),
        fail(RETURN),
        jobs.CANCELLED,
        "job_cancelled",
    ),
    "fail": (running(), fail(FAIL), jobs.FAILED, "job_failed"),
    "fail of a cancelled job": (running(cancel_requested=True), fail(FAIL), jobs.FAILED, "job_failed"),
    "dead-letter": (running(), fail(LETTER), jobs.DEAD_LETTERED, "job_dead_lettered"),
    "cancel": (running(), fail(CANCEL), jobs.CANCELLED, "job_cancelled"),
    "after the lease": (running(lease_expire_micros=1), fail(RETRY), jobs.SCHEDULED, "attempt_failed"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_a_verdict_leads_to_one_state_and_one_event(case: str) -> None:
    before, item, state, expected = VERDICTS[case]
    decision = failures.fail(before, item, {}, NOW, RULES)
    assert decision.outcome == Moved(state)
    assert decision.job is not None
    assert [event.WhichOneof("payload") for event in decision.events] == [expected]
    assert decision.job.seq == before.seq + 1 == decision.events[0].seq
    assert (decision.job.lease_id, decision.job.instance) == (None, "")
    assert (decision.job.fingerprint is not None) == (state == jobs.DEAD_LETTERED)
    runnable = state in (jobs.SCHEDULED, jobs.QUEUED)
    assert decision.job.dispatch == before.dispatch + runnable


def test_a_returned_attempt_is_given_back() -> None:
    decision = failures.fail(running(attempt=2), fail(RETURN), {}, NOW, RULES)
    assert decision.job is not None
    assert decision.job.attempt == 1


def test_the_retry_delay_is_half_the_bound_for_a_draw_of_a_half() -> None:
    decision = failures.fail(running(attempt=2), fail(RETRY), {}, NOW, RULES)
    assert decision.job is not None
    assert decision.job.run_time_micros == NOW + 1_000_000
    assert decision.events[0].attempt_failed.routing.run_time_micros == NOW + 1_000_000


@pytest.mark.parametrize("epoch", [2, 99])
def test_another_epoch_is_stale_for_every_call(epoch: int) -> None:
    held = running()
    outcomes: list[object] = [
        failures.fail(held, fail(RETRY, epoch=epoch), {}, NOW, RULES).outcome,
        commits.commit(held, Commit(JOB_ID, epoch, b"{}", (), (), "i", 1), {}, {}, NOW).outcome,
        commits.record(held, Record(JOB_ID, epoch, [step("1")], "i", 1), {}, NOW).outcome,
        leases.renew(held, Renew(JOB_ID, epoch), NOW, RULES).outcome,
        effects.claim(held, Claim(JOB_ID, epoch, "1", "erp.post", b"", 1, "t"), None, NOW).outcome,
    ]
    assert [reason(each) for each in outcomes] == ["STALE_EPOCH"] * 5


@pytest.mark.parametrize("state", [jobs.QUEUED, jobs.SCHEDULED, jobs.FAILED, jobs.CANCELLED])
def test_an_attempt_that_was_taken_away_is_stale(state: Any) -> None:
    taken = job(state=state, epoch=1, ending=jobs.TAKEN)
    assert reason(failures.fail(taken, fail(RETRY), {}, NOW, RULES).outcome) == "STALE_EPOCH"
    commit = Commit(JOB_ID, 1, b"{}", (), (), "i", 1)
    assert reason(commits.commit(taken, commit, {}, {}, NOW).outcome) == "STALE_EPOCH"


def test_a_report_heard_before_answers_the_state_and_a_commit_heard_before_is_done() -> None:
    reported = job(state=jobs.CANCELLED, epoch=1, ending=jobs.REPORTED)
    decision = failures.fail(reported, fail(RETRY), {}, NOW, RULES)
    assert (decision.outcome, decision.job) == (Moved(jobs.CANCELLED), None)
    committed = job(state=jobs.SUCCEEDED, epoch=1, ending=jobs.COMMITTED)
    again = commits.commit(committed, Commit(JOB_ID, 1, b"{}", (), (), "i", 1), {}, {}, NOW)
    assert (again.outcome, again.job) == (DONE, None)


def test_a_commit_that_contradicts_the_journal_or_a_document_changes_nothing() -> None:
    contradicting = Commit(JOB_ID, 1, b"{}", [step("1", b"2")], (), "i", 1)
    refused = commits.commit(running(), contradicting, known("1"), {}, NOW)
    assert (reason(refused.outcome), refused.job) == ("STEP_CONFLICT", None)
    write = StateWrite(collection="c", key="k", body=b"1", expected_version=3)
    conflicting = Commit(JOB_ID, 1, b"{}", (), [write], "i", 1)
    key = Key("acme", "c", "k")
    conflict = commits.commit(running(), conflicting, {}, {key: 2}, NOW)
    assert (conflict.outcome, conflict.job) == (Conflict((key,)), None)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.integers(0, 4))), max_size=8),
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 3)),
)
def test_writes_make_gapless_versions_in_order_or_none(
    plan: list[tuple[str, int | None]], current: dict[str, int]
) -> None:
    writes = [
        StateWrite(collection="c", key=key, body=b"%d" % place, expected_version=expected)
        for place, (key, expected) in enumerate(plan)
    ]
    versions = {Key("acme", "c", key): version for key, version in current.items()}
    item = Commit(JOB_ID, 1, b"{}", (), writes, "i", 1)
    decision = commits.commit(running(), item, {}, versions, NOW)
    model, wrong = dict(current), False
    for key, expected in plan:
        wrong |= expected is not None and expected != model.get(key, 0)
        model[key] = model.get(key, 0) + 1
    assert isinstance(decision.outcome, Conflict) == wrong
    if wrong:
        assert decision.versions == ()
        return
    assert [each.body for each in decision.versions] == [write.body for write in writes]
    for key in model:
        made = [each.version for each in decision.versions if each.key == key]
        assert made == list(range(current.get(key, 0) + 1, model[key] + 1))
    assert [event.seq for event in decision.events] == list(range(3, 3 + len(plan) + 1))


def test_a_lease_is_extended_until_it_ends_and_never_shortened() -> None:
    extended = leases.renew(running(), Renew(JOB_ID, 1), NOW, RULES).outcome
    assert isinstance(extended, Renewed)
    assert extended.job.lease_expire_micros == NOW + LEASE
    longer = running(lease_expire_micros=NOW + 2 * LEASE)
    kept = leases.renew(longer, Renew(JOB_ID, 1), NOW, RULES).outcome
    assert isinstance(kept, Renewed)
    assert kept.job.lease_expire_micros == NOW + 2 * LEASE
    over = leases.renew(running(lease_expire_micros=NOW), Renew(JOB_ID, 1), NOW, RULES)
    assert (reason(over.outcome), over.job) == ("LEASE_EXPIRED", None)


CANCELS: dict[str, tuple[JobRow, Any, list[str]]] = {
    "queued": (job(), jobs.CANCELLED, ["job_cancelled"]),
    "scheduled": (job(state=jobs.SCHEDULED), jobs.CANCELLED, ["job_cancelled"]),
    "waiting": (job(state=jobs.WAITING), jobs.CANCELLED, ["job_cancelled"]),
    "paused": (job(state=jobs.PAUSED), jobs.CANCELLED, ["job_cancelled"]),
    "running": (running(), jobs.RUNNING, ["cancel_requested"]),
    "asked before": (running(cancel_requested=True), jobs.RUNNING, []),
    "within the allowance": (running(lease_expire_micros=NOW - 1), jobs.RUNNING, ["cancel_requested"]),
    "lost": (running(lease_expire_micros=NOW - ALLOWANCE), jobs.CANCELLED, ["attempt_lost", "job_cancelled"]),
    "cancelled": (job(state=jobs.CANCELLED), jobs.CANCELLED, []),
}


@pytest.mark.parametrize("case", CANCELS)
def test_cancelling_takes_effect_or_asks(case: str) -> None:
    before, state, expected = CANCELS[case]
    decision = cancels.cancel(before, Cancel(JOB_ID, "acme", "storm", ACTOR), NOW, RULES)
    assert decision.outcome == Moved(state)
    assert [event.WhichOneof("payload") for event in decision.events] == expected
    assert (decision.job is not None) == bool(expected)


@pytest.mark.parametrize("state", [jobs.SUCCEEDED, jobs.FAILED, jobs.DEAD_LETTERED])
def test_an_ended_job_is_not_cancelled(state: Any) -> None:
    decision = cancels.cancel(job(state=state), Cancel(JOB_ID, "", "", ACTOR), NOW, RULES)
    assert (reason(decision.outcome), decision.job) == ("JOB_TERMINAL", None)


def test_dead_letters_of_one_cause_share_a_fingerprint() -> None:
    one = failures.fingerprint("booking", "HANDLER_FAILED", "order 17 of 99 is empty")
    assert one == failures.fingerprint("booking", "HANDLER_FAILED", "order 4711 of 3 is empty")
    others = {
        failures.fingerprint("document", "HANDLER_FAILED", "order 17 of 99 is empty"),
        failures.fingerprint("booking", "LEASE_LOST", "order 17 of 99 is empty"),
        failures.fingerprint("booking", "HANDLER_FAILED", "order 17 of 99 is full"),
    }
    assert one not in others
    assert len(others) == 3


def test_the_number_of_attempts_joins_what_the_error_said() -> None:
    marked = from_status(failures.with_metadata(ERROR, attempts="3"))
    assert (marked.reason, dict(marked.metadata)) == ("HANDLER_FAILED", {"order": "4711", "attempts": "3"})
    bare = from_status(failures.with_metadata(Status(code=2, message="boom"), attempts="1"))
    assert (bare.message, dict(bare.metadata)) == ("boom", {"attempts": "1"})
    assert from_status(ERROR).metadata == {"order": "4711"}


def test_the_policys_reasons_end_retries() -> None:
    policy = type(POLICY)()
    policy.CopyFrom(POLICY)
    policy.non_retryable_reasons.append("HANDLER_FAILED")
    strict = running(retry_policy=policy.SerializeToString())
    assert failures.fail(strict, fail(RETRY), {}, NOW, RULES).outcome == Moved(jobs.DEAD_LETTERED)
    assert FailAttempt.VERDICT_RETRY == RETRY
