"""The one scheduler that projects: takes the lease, follows the log, watches the stream, rebuilds it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from services.scheduler.bus import Bus
from services.scheduler.figures import PROJECTING
from services.scheduler.ledger import Cursor, LedgerClient
from services.scheduler.pools import Pools
from services.scheduler.projection import Diverged, Projection
from services.scheduler.publisher import Publisher
from services.scheduler.rebuild import Rebuilder, Rebuilt
from services.scheduler.reconciler import Reconciler
from services.scheduler.singleton import Singleton, Tenure, TenureLost
from services.scheduler.stream import JobsStream, StorageGone, StreamFault
from services.scheduler.tasks import end, run_together
from workmesh import errors
from workmesh.clock import Clock
from workmesh.errors import MeshError

_logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_RETRY_SECONDS: Final = 0.2
_CONFIRM_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.25
_CALM_SECONDS: Final = 60.0
_MOST_PAUSE: Final = 30.0


@dataclass(frozen=True, slots=True)
class WatchTiming:
    """Seconds: between two looks at the storage, and until failing publishes mean that it is gone."""

    check: float
    stall: float


class RebuildWanted(Exception):
    """The stream cannot be trusted any more."""


class Leader:
    """Projects while it has the lease, for ever trying to get it."""

    def __init__(
        self,
        bus: Bus,
        singleton: Singleton,
        ledger: LedgerClient,
        stream: JobsStream,
        publisher: Publisher,
        pools: Pools,
        projection: Projection,
        rebuilder: Rebuilder,
        reconciler: Reconciler,
        clock: Clock,
        timing: WatchTiming,
    ) -> None:
        self._bus = bus
        self._singleton = singleton
        self._ledger = ledger
        self._stream = stream
        self._publisher = publisher
        self._pools = pools
        self._projection = projection
        self._rebuilder = rebuilder
        self._reconciler = reconciler
        self._clock = clock
        self._timing = timing
        self._tenure: Tenure | None = None
        self._following = ""
        self._wanted = asyncio.Event()
        self._cause = ""
        self._asked: list[asyncio.Future[Rebuilt]] = []
        self._rebuilt_at = float("-inf")
        self._pause = 0.0

    @property
    def projecting(self) -> bool:
        """Whether this process has the lease."""
        return self._tenure is not None

    async def run(self) -> None:
        """Lead whenever that is possible, for ever."""
        while True:
            await self._bus.wait_connected()
            tenure = await self._singleton.acquire()
            _logger.info("this scheduler projects", extra={"action": "tenure_begun", "epoch": tenure.epoch})
            self._tenure = tenure
            PROJECTING.set(1)
            try:
                await run_together(
                    self._singleton.keep(tenure),
                    self._watch(),
                    self._watch_publishes(),
                    self._reconciler.run(),
                    self._project(tenure),
                )
            except TenureLost as error:
                self._tenure = None
                _logger.warning(
                    "another scheduler projects", extra={"action": "tenure_lost", "cause": str(error)}
                )
            finally:
                self._end()

    async def resign(self) -> None:
        """Hand the lease back; called once `run` was cancelled."""
        tenure, self._tenure = self._tenure, None
        if tenure is not None:
            await self._singleton.release(tenure)

    async def rebuild(self) -> Rebuilt:
        """Rebuild on request; FAILED_PRECONDITION WRONG_STATE on a scheduler that does not project."""
        if self._tenure is None:
            raise errors.failed_precondition("WRONG_STATE", "this scheduler does not project")
        answer: asyncio.Future[Rebuilt] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._want("request")
        return await answer

    def _want(self, cause: str) -> None:
        self._cause = cause
        self._wanted.set()

    def _end(self) -> None:
        PROJECTING.set(0)
        self._following = ""
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(errors.unavailable("DRAINING", "this scheduler projects no longer"))
        self._asked.clear()

    async def _project(self, tenure: Tenure) -> None:
        """Follow the log; whenever the stream cannot be trusted, rebuild it first."""
        cursor = await self._starting_point()
        while True:
            if cursor is None:
                cursor = await self._rebuild(tenure)
            self._pools.use(cursor.generation)
            self._reconciler.filled_at = cursor.filled_at
            self._following = cursor.generation
            self._publisher.stream_missing.clear()
            try:
                await self._unless_wanted(self._projection.follow(tenure, cursor))
            except (Diverged, RebuildWanted) as error:
                self._cause = self._cause or "diverged"
                _logger.warning(
                    "the queues are not to be trusted",
                    extra={"action": "rebuild_wanted", "cause": str(error)},
                )
            self._following = ""
            cursor = None

    async def _starting_point(self) -> Cursor | None:
        """Return the cursor to go on from; None if there is none that is true of the stream."""
        while True:
            try:
                return await self._stored_cursor()
            except (MeshError, *StreamFault) as error:
                _logger.warning(
                    "where to begin is not known yet",
                    extra={"action": "start_failed", "error": f"{type(error).__name__}: {error}"},
                )
                await asyncio.sleep(_RETRY_SECONDS)

    async def _stored_cursor(self) -> Cursor | None:
        generation = await self._stream.generation()
        cursor = await self._ledger.cursor()
        if generation and cursor is not None and cursor.generation == generation:
            await self._stream.adopt(generation)
            return cursor
        self._cause = "no_stream" if not generation else "no_cursor" if cursor is None else "generation"
        return None

    async def _rebuild(self, tenure: Tenure) -> Cursor:
        """Rebuild until it succeeds; what happens on the way begins it again."""
        await self._calm_down()
        while True:
            await self._bus.wait_connected()
            cause, self._cause = self._cause or "stall", ""
            self._wanted.clear()
            asked, self._asked = self._asked, []
            try:
                rebuilt = await self._unless_wanted(self._rebuilder.rebuild(tenure, cause))
            except (MeshError, RebuildWanted, *StreamFault) as error:
                self._asked += asked
                _logger.warning(
                    "the queues could not be made anew",
                    extra={"action": "rebuild_failed", "error": f"{type(error).__name__}: {error}"},
                )
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            except BaseException:
                self._asked += asked
                raise
            self._rebuilt_at = self._clock.monotonic()
            for answer in asked:
                if not answer.done():
                    answer.set_result(rebuilt)
            return rebuilt.cursor

    async def _calm_down(self) -> None:
        """Rebuild at once after a quiet time, later and later when one rebuild follows another."""
        recent = self._clock.monotonic() - self._rebuilt_at < _CALM_SECONDS
        self._pause = min(_MOST_PAUSE, max(_RETRY_SECONDS, self._pause * 2)) if recent else 0.0
        await asyncio.sleep(self._pause)

    async def _watch(self) -> None:
        """Look after the stream under the projection's feet."""
        missing = self._publisher.stream_missing
        while True:
            try:
                async with asyncio.timeout(self._timing.check):
                    await missing.wait()
            except TimeoutError:
                _logger.debug("nothing was reported missing", extra={"action": "watch_round"})
            missing.clear()
            if self._following and await self._is_gone(self._following):
                self._want("storage")
            await asyncio.sleep(_CONFIRM_SECONDS)

    async def _watch_publishes(self) -> None:
        """Want a rebuild when publishes fail for too long though the server answers all the while."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            failing = self._publisher.failing_seconds()
            if failing and not await self._bus.answers(_LOOK_SECONDS):
                self._publisher.excuse()
            elif failing >= self._timing.stall:
                self._want("stall")

    async def _is_gone(self, generation: str) -> bool:
        """Look twice: a rebuild is not worth a passing fault."""
        for _ in range(2):
            try:
                await self._stream.check(generation)
                return False
            except StorageGone as error:
                _logger.warning("the stream is broken", extra={"action": "storage_gone", "cause": str(error)})
            except StreamFault as error:
                _logger.info(
                    "the stream cannot be checked",
                    extra={"action": "check_failed", "error": f"{type(error).__name__}: {error}"},
                )
                return False
            await asyncio.sleep(_CONFIRM_SECONDS)
        return self._following == generation

    async def _unless_wanted(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Await the work; raise RebuildWanted, the work cancelled, when a rebuild is wanted first."""
        task = asyncio.ensure_future(work)
        wanted = asyncio.ensure_future(self._wanted.wait())
        try:
            await asyncio.wait({task, wanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = task.done()
            await end(task, wanted)
        if not ended:
            raise RebuildWanted(self._cause)
        return task.result()
