"""Keeps leases: renews them past their half, and ends the attempts whose lease or time is over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from services.agent.execution import Execution
from services.agent.instance import Instance
from services.agent.ledger import Ledger
from services.agent.stops import Stop
from workmesh.clock import Clock
from workmesh.errors import MeshError, from_status

_logger = logging.getLogger(__name__)

_MOST_RENEWALS: Final = 256
_MOST_PERIOD: Final = 0.25


class LeaseKeeper:
    """Looks at every running attempt some twenty times a lease, and sleeps while there is none."""

    def __init__(self, instance: Instance, ledger: Ledger, lease_seconds: float, clock: Clock) -> None:
        self._instance = instance
        self._ledger = ledger
        self._period = min(_MOST_PERIOD, lease_seconds / 20)
        self._clock = clock
        self._renewing: set[Execution] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Keep leases until cancelled."""
        try:
            while True:
                await self._instance.busy.wait()
                self.look()
                await asyncio.sleep(self._period)
        finally:
            for task in self._tasks:
                task.cancel()

    def look(self) -> None:
        """Do what is due now."""
        now = self._clock.monotonic()
        due = []
        for execution in list(self._instance.executions):
            execution.check(now)
            if execution.is_stuck:
                self._instance.abandon(execution)
            elif execution.lease.renew_at <= now < execution.lease.ends_at and execution.may_renew:
                due.append(execution)
        fresh = [execution for execution in due if execution not in self._renewing]
        for start in range(0, len(fresh), _MOST_RENEWALS):
            self._start_renewal(fresh[start : start + _MOST_RENEWALS])

    def _start_renewal(self, executions: Sequence[Execution]) -> None:
        self._renewing.update(executions)
        task = asyncio.create_task(self._renew(executions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew(self, executions: Sequence[Execution]) -> None:
        try:
            renewed = await self._ledger.renew([execution.lease.ref for execution in executions])
        except MeshError as error:
            # The next look tries again, as long as the leases last.
            _logger.warning(
                "leases were not renewed: %s",
                error,
                extra={"action": "renewal_failed", "leases": len(executions)},
            )
            return
        finally:
            self._renewing.difference_update(executions)
        for execution, result in zip(executions, renewed.results, strict=True):
            if not result.status.code:
                execution.lease.extend(renewed.token, renewed.sent_at, renewed.lease_seconds)
                if result.cancel_requested:
                    execution.stop(Stop.CANCEL)
            elif from_status(result.status).reason in ("STALE_EPOCH", "LEASE_EXPIRED"):
                execution.stop(Stop.LOST)
