"""The writers of a process: who takes a batch, what is tried again, and how a bad item is singled out."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import asyncpg

from services.ledger import metrics
from services.ledger.chains import ChainBusyError
from services.ledger.database import is_collision, is_outage
from services.ledger.items import Item, Outcome
from services.ledger.writer import BlockTooLargeError, CommitUnknownError, Writer, WriterLostError
from workmesh import errors
from workmesh.errors import MeshError

logger = logging.getLogger(__name__)

_FIRST_BACKOFF: Final = 0.05
_LAST_BACKOFF: Final = 2.0
_COLLISIONS: Final = 4
_COLLISION_SECONDS: Final = 0.01


class _Idle:
    """Writers that wait for work, and work that waits for writers: the last to come is the first to go."""

    def __init__(self) -> None:
        self._writers: list[Writer] = []
        self._waiting: deque[asyncio.Future[Writer]] = deque()

    def put(self, writer: Writer) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(writer)
                return
        self._writers.append(writer)

    def remove(self, writer: Writer) -> bool:
        """Take out a writer; False if it is at work."""
        if writer not in self._writers:
            return False
        self._writers.remove(writer)
        return True

    def take_now(self) -> Writer | None:
        return self._writers.pop() if self._writers else None

    async def take(self, deadline: float) -> Writer:
        """Wait for a writer until a time of the loop's clock; TimeoutError then."""
        waiting: asyncio.Future[Writer] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                return await waiting
        except BaseException:
            if waiting.done() and not waiting.cancelled():
                self.put(waiting.result())
            raise


class Writers:
    """Hands batches to whichever writer is free and brings lost writers back.

    `patience` is how many seconds a batch waits for a database that is away before its items are
    answered UNAVAILABLE; once it has been away that long, they are so answered at once.
    """

    def __init__(self, writers: Sequence[Writer], *, patience: float) -> None:
        self._writers = tuple(writers)
        self._patience = patience
        self._changed: Callable[[], None] = lambda: None
        self._idle = _Idle()
        self._recoveries: set[asyncio.Task[None]] = set()
        self._owning: set[Writer] = set()
        self._away_since: float | None = None
        self._all_open = asyncio.Event()

    @property
    def owning(self) -> int:
        """How many writers own a chain now."""
        return len(self._owning)

    @property
    def backends(self) -> frozenset[int]:
        """The process ids of the writers' database sessions."""
        return frozenset(writer.pid for writer in self._writers if writer.pid)

    async def start(self, changed: Callable[[], None]) -> None:
        """Return when all writers own chains; keeps trying while the database is away.

        From then on `changed` is called whenever another number of them does.
        """
        self._away_since = asyncio.get_running_loop().time()
        for writer in self._writers:
            writer.on_loss(self._lost)
            self._recover(writer)
        await self._all_open.wait()
        self._changed = changed

    async def close(self) -> None:
        """Give all chains back."""
        for task in self._recoveries:
            task.cancel()
        await asyncio.gather(*self._recoveries, return_exceptions=True)
        for writer in self._writers:
            writer.close()
        self._owning.clear()
        self._owning_changed()

    async def write(self, items: Sequence[Item]) -> list[Outcome]:
        """Write items, in one transaction if all goes well, and return an outcome per item.

        An item that breaks its transaction fails alone as INTERNAL: the batch is halved around it. Never
        raises for what befalls the database: items are answered UNAVAILABLE then.
        """
        plain, collisions = True, 0
        while True:
            try:
                return await self._persist(items, plain)
            except MeshError as error:
                return [error.copy() for _ in items]
            except BlockTooLargeError as error:
                return await self._split(items, error)
            except Exception as error:
                race = is_collision(error)
                again = race or isinstance(error, asyncpg.UniqueViolationError)
                collisions += again
                if not (again and collisions < _COLLISIONS) and (race or not plain):
                    return await self._split(items, error)
                # A statement that fails for a batch may be the wrong one for an item: not a race, then.
                plain = plain and race
                await asyncio.sleep(collisions * random.uniform(0.0, _COLLISION_SECONDS))

    async def _persist(self, items: Sequence[Item], plain: bool) -> list[Outcome]:
        """Try one writer after another until one is not lost over the batch."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                return await self._attempt(items, plain, deadline)
            except WriterLostError:
                continue

    async def _attempt(self, items: Sequence[Item], plain: bool, deadline: float) -> list[Outcome]:
        writer = await self._take(deadline)
        try:
            results = await writer.write(items, plain=plain)
        except (WriterLostError, CommitUnknownError) as error:
            logger.warning("a writer was lost: %s", error, extra={"action": "writer_lost"})
            self._recover(writer)
            if isinstance(error, CommitUnknownError):
                return await _outcome_of(error, deadline)
            raise
        except BaseException:
            self._idle.put(writer)
            raise
        self._idle.put(writer)
        return results

    async def _split(self, items: Sequence[Item], error: Exception) -> list[Outcome]:
        if len(items) == 1:
            return [_single_out(items[0], error)]
        middle = len(items) // 2
        return [*await self.write(items[:middle]), *await self.write(items[middle:])]

    async def _take(self, deadline: float) -> Writer:
        now = asyncio.get_running_loop().time()
        if now > deadline or (self._away_since is not None and now - self._away_since > self._patience):
            raise _away()
        writer = self._idle.take_now()
        if writer is not None:
            return writer
        try:
            return await self._idle.take(deadline)
        except TimeoutError:
            raise _away() from None

    def _lost(self, writer: Writer) -> None:
        """Bring back at once a writer whose connection ended while it was idle."""
        if self._idle.remove(writer):
            logger.warning("an idle writer was lost", extra={"action": "writer_lost"})
            self._recover(writer)

    def _recover(self, writer: Writer) -> None:
        self._owning.discard(writer)
        self._owning_changed()
        task = asyncio.get_running_loop().create_task(self._reopen(writer))
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)

    async def _reopen(self, writer: Writer) -> None:
        """Open a writer, with backoff and jitter, for as long as it takes."""
        backoff = _FIRST_BACKOFF
        while True:
            try:
                await writer.open()
                break
            except Exception as error:
                expected = is_outage(error) or isinstance(error, ChainBusyError)
                logger.warning(
                    "cannot open a writer: %s",
                    error,
                    exc_info=None if expected else error,
                    extra={"action": "writer_not_opened"},
                )
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
            backoff = min(_LAST_BACKOFF, 2 * backoff)
        self._owning.add(writer)
        self._owning_changed()
        self._idle.put(writer)

    def _owning_changed(self) -> None:
        metrics.OWNED_CHAINS.set(len(self._owning))
        if self._owning:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = asyncio.get_running_loop().time()
        if len(self._owning) == len(self._writers):
            self._all_open.set()
        self._changed()


async def _outcome_of(unknown: CommitUnknownError, deadline: float) -> list[Outcome]:
    """Return the outcomes of a commit that turns out to have happened.

    WriterLostError when it did not; UNAVAILABLE when nobody can tell in time.
    """
    try:
        async with asyncio.timeout_at(deadline):
            committed = await asyncio.shield(unknown.decided)
    except TimeoutError:
        raise _away() from None
    if not committed:
        raise WriterLostError("the block is not there: the commit did not happen")
    return unknown.results


def _single_out(item: Item, error: Exception) -> MeshError:
    if is_collision(error):
        return errors.unavailable("DEPENDENCY_DOWN", "the row is locked by someone else", retry_after=1.0)
    logger.error(
        "an item could not be written",
        exc_info=error,
        extra={"action": "item_failed", "kind": type(item).__name__, "job_id": getattr(item, "job_id", "")},
    )
    return errors.internal()


def _away() -> MeshError:
    return errors.unavailable("DEPENDENCY_DOWN", "the database does not answer", retry_after=1.0)
