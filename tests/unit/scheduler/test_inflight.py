"""Which leases live, and what becomes of their messages."""

from __future__ import annotations

from services.scheduler.inflight import Inflight
from services.scheduler.messages import Message
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch
from workmesh.scheduler.v1.lease_service_pb2 import RunningLease

LIFETIME = 11.0


def message(job_id: str = "job", dispatch: int = 1, sequence: bytes = b"1") -> Message:
    return Message(Dispatch(job_id=job_id, dispatch=dispatch), 0, b"reply", sequence)


def running(lease_id: str, job_id: str = "job", dispatch: int = 1) -> list[RunningLease]:
    return [RunningLease(lease_id=lease_id, job_id=job_id, dispatch=dispatch)]


def test_an_offer_lives_for_a_lifetime_without_a_word() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("lease", message(), "agent-1", 100.0)
    assert inflight.expired(100.0 + LIFETIME) == []
    (lost,) = inflight.expired(100.1 + LIFETIME)
    assert lost.lease_id == "lease"
    assert len(inflight) == 0
    assert inflight.of_job("job") is None


def test_each_heartbeat_that_names_a_lease_gives_it_a_lifetime_more() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("lease", message(), "agent-1", 100.0)
    inflight.named("agent-1", running("lease"), 110.0)
    assert inflight.expired(110.0 + LIFETIME) == []
    assert len(inflight.expired(110.1 + LIFETIME)) == 1


def test_a_lease_whose_end_nobody_can_tell_counts_from_then() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("lease", message(), "agent-1", 100.0)
    inflight.adrift("lease", 105.0)
    assert inflight.expired(105.0 + LIFETIME) == []
    assert len(inflight.expired(105.1 + LIFETIME)) == 1


def test_a_lease_of_before_a_reconnection_is_taken_over_without_its_message() -> None:
    inflight = Inflight(LIFETIME)
    inflight.named("agent-1", running("foreign"), 100.0)
    lease = inflight.holder(message())
    assert lease is not None
    assert (lease.lease_id, lease.message) == ("foreign", None)
    assert inflight.holder(message(dispatch=2)) is None


def test_signs_of_progress_are_due_once_an_interval() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("lease", message(), "agent-1", 100.0)
    inflight.named("agent-1", running("foreign", "other"), 100.0)
    assert inflight.stale(105.0, 10.0) == []
    assert [each.key for each in inflight.stale(110.0, 10.0)] == [("job", 1)]
    assert inflight.stale(115.0, 10.0) == []


def test_a_new_stream_leaves_leases_without_messages() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("lease", message(), "agent-1", 100.0)
    inflight.forget_messages()
    lease = inflight.close("lease")
    assert lease is not None
    assert lease.message is None


def test_closing_an_old_lease_leaves_the_newer_one_of_its_job() -> None:
    inflight = Inflight(LIFETIME)
    inflight.offered("old", message(), "agent-1", 100.0)
    inflight.offered("new", message(dispatch=2), "agent-2", 101.0)
    inflight.close("old")
    newest = inflight.of_job("job")
    assert newest is not None
    assert newest.lease_id == "new"
    assert inflight.close("unknown") is None
    assert inflight.count_by_instance() == {"agent-2": 1}
