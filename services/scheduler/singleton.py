"""The lease in the ledger under which one scheduler projects."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import grpc

from services.scheduler.ledger import LedgerClient
from workmesh.clock import Clock
from workmesh.errors import MeshError

_logger = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 0.2


class TenureLost(Exception):
    """Another scheduler projects, or may."""


class Tenure:
    """The time during which this process projects, by its own clock: counted from before each renewal."""

    def __init__(self, epoch: int, end: float, clock: Clock) -> None:
        self.epoch = epoch
        self.end = end
        self._clock = clock

    def require(self) -> None:
        """Raise TenureLost when the time is over: for what must not be done twice."""
        if self._clock.monotonic() >= self.end:
            raise TenureLost("the lease ran out")


class Singleton:
    """Takes the lease, keeps it, hands it back."""

    def __init__(self, ledger: LedgerClient, clock: Clock, seconds: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._seconds = seconds
        self.asked = asyncio.Event()
        """Set once the ledger has answered at all."""

    async def acquire(self) -> Tenure:
        """Wait until this process has the lease."""
        while True:
            began = self._clock.monotonic()
            try:
                epoch = await self._ledger.acquire(self._seconds)
            except MeshError as error:
                if error.code is grpc.StatusCode.ABORTED:
                    self.asked.set()
                else:
                    _logger.warning(
                        "the ledger does not answer",
                        extra={"action": "ledger_unreachable", "reason": error.reason},
                    )
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self.asked.set()
            return Tenure(epoch, began + self._seconds, self._clock)

    async def keep(self, tenure: Tenure) -> None:
        """Renew the lease until that fails for good, then raise TenureLost."""
        while True:
            await asyncio.sleep(self._seconds / 3)
            await self.renew(tenure)

    async def renew(self, tenure: Tenure) -> None:
        """Renew the lease once, trying until its end."""
        while True:
            tenure.require()
            began = self._clock.monotonic()
            try:
                epoch = await self._ledger.acquire(self._seconds, timeout=self._seconds / 2)
            except MeshError as error:
                if error.code is grpc.StatusCode.ABORTED:
                    raise TenureLost(error.message) from error
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if epoch != tenure.epoch:
                raise TenureLost("the lease was lost and taken again")
            tenure.end = began + self._seconds
            return

    async def release(self, tenure: Tenure) -> None:
        """Hand the lease back, so that another need not wait for its end."""
        try:
            await self._ledger.release(tenure.epoch)
        except MeshError as error:
            _logger.info(
                "the lease could not be handed back",
                extra={"action": "release_failed", "reason": error.reason},
            )
