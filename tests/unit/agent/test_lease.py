"""The parts of an instance that need no peers."""

from __future__ import annotations

import pytest

from services.agent.backoff import pause
from services.agent.lease import Lease
from services.agent.stops import Stop, failure_of
from workmesh.clock import ManualClock
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.scheduler.v1.lease_service_pb2 import Offer
from workmesh.sdk.errors import AttemptLost


def lease_of(clock: ManualClock, seconds: float = 10.0) -> Lease:
    offer = Offer(job_id="job", lease_id="lease")
    return Lease(offer, 3, JobToken(token_id="one"), clock.monotonic(), seconds, clock)


def test_a_lease_counts_from_the_sending_of_its_request() -> None:
    clock = ManualClock()
    sent_at = clock.monotonic()
    clock.advance(4.0)
    lease = Lease(Offer(), 1, JobToken(), sent_at, 10.0, clock)
    clock.advance(5.9)
    lease.check()
    clock.advance(0.1)
    assert lease.is_over
    with pytest.raises(AttemptLost):
        lease.check()


def test_a_renewal_brings_a_token_and_a_later_end() -> None:
    clock = ManualClock()
    lease = lease_of(clock)
    assert lease.renew_at == clock.monotonic() + 5.0
    clock.advance(6.0)
    lease.extend(JobToken(token_id="two"), clock.monotonic(), 10.0)
    clock.advance(9.9)
    lease.check()
    assert lease.token.token_id == "two"
    assert lease.renew_at < clock.monotonic() < lease.ends_at


@pytest.mark.parametrize(
    ("tries", "draw", "retry_after", "expected"),
    [
        (0, 1.0, None, 0.05),
        (0, 0.5, None, 0.025),
        (3, 1.0, None, 0.4),
        (50, 1.0, None, 1.0),
        (0, 0.0, None, 0.0),
        (0, 0.0, 0.3, 0.3),
        (50, 1.0, 0.3, 1.0),
        (0, 0.0, 3600.0, 10.0),
    ],
)
def test_pauses_double_with_full_jitter_and_obey_the_other_side(
    tries: int, draw: float, retry_after: float | None, expected: float
) -> None:
    assert pause(tries, draw, retry_after) == pytest.approx(expected)


def test_every_stop_but_a_lost_lease_is_reported() -> None:
    verdicts = {stop: failure_of(stop).verdict for stop in Stop if stop is not Stop.LOST}
    assert verdicts == {
        Stop.CANCEL: FailAttempt.VERDICT_CANCEL,
        Stop.TIMEOUT: FailAttempt.VERDICT_RETRY,
        Stop.DEADLINE: FailAttempt.VERDICT_FAIL,
        Stop.DRAIN: FailAttempt.VERDICT_RETURN,
    }
