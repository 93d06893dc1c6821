"""The right to work on one job, as this instance may rely on it."""

from __future__ import annotations

from workmesh.clock import Clock
from workmesh.common.v1.token_pb2 import JobToken
from workmesh.ledger.v1.ledger_write_service_pb2 import AttemptRef
from workmesh.scheduler.v1.lease_service_pb2 import Offer
from workmesh.sdk.errors import AttemptLost


class Lease:
    """A granted lease. Times are monotonic seconds, counted from the sending of the request that got it.

    The ledger counts from a later moment, so this side always ends first.
    """

    __slots__ = ("_clock", "ends_at", "offer", "ref", "renew_at", "seconds", "token", "traceparent")

    def __init__(
        self, offer: Offer, epoch: int, token: JobToken, sent_at: float, seconds: float, clock: Clock
    ) -> None:
        self.offer = offer
        self.traceparent = offer.traceparent
        """What tool calls are traced under."""
        self.ref = AttemptRef(job_id=offer.job_id, epoch=epoch)
        self.seconds = seconds
        self._clock = clock
        self.extend(token, sent_at, seconds)

    def extend(self, token: JobToken, sent_at: float, seconds: float) -> None:
        """Take a renewal, or the grant itself, that was asked for at a moment."""
        self.token = token
        self.seconds = seconds
        self.ends_at = sent_at + seconds
        self.renew_at = sent_at + seconds / 2

    @property
    def is_over(self) -> bool:
        return self._clock.monotonic() >= self.ends_at

    def check(self) -> None:
        """Raise AttemptLost once the lease is over; to be asked right before anything takes effect."""
        if self._clock.monotonic() >= self.ends_at:
            raise AttemptLost("the lease is over")
