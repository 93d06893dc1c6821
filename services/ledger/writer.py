"""A writer: one connection, one chain, one block a transaction."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

import asyncpg

from services.ledger import careful_path, chains, grants, metrics, plain_path, requests, shelves
from services.ledger.database import STATEMENT_SECONDS, is_outage
from services.ledger.draft import Draft, Head
from services.ledger.items import Apply, Begin, Create, Item, JobItem, Outcome
from services.ledger.jobs import Rules
from services.ledger.plan import Placed, Plan, make_plan
from services.ledger.session import Session
from workmesh.ledger.v1.block_pb2 import Block

logger = logging.getLogger(__name__)

# Followers get a block in one message of at most 4 MiB.
_MOST_EVENT_BYTES: Final = 3 << 20

# The server bounds each statement and says so; this is for a server that says nothing.
_TRANSACTION_SECONDS: Final = STATEMENT_SECONDS + 2.0


class CommitListener(Protocol):
    """Learns of every block that this process commits, in the order of each chain."""

    def committed(self, block: Block) -> None: ...


class WriterLostError(Exception):
    """The writer's connection is gone, or its chain; nothing of the batch was committed."""


class BlockTooLargeError(Exception):
    """A batch makes more events than a message of the feed can carry: it goes in parts."""


class CommitUnknownError(Exception):
    """The connection was lost at the commit; `decided` says, once known, whether the block is stored."""

    def __init__(self, block: Block, results: list[Outcome]) -> None:
        super().__init__(f"the outcome of block {block.height} of chain {block.chain} is unknown")
        self.block = block
        self.results = results
        self.decided: asyncio.Future[bool] = asyncio.get_running_loop().create_future()


class Writer:
    """Writes batches in transactions of its own; used by one task at a time."""

    def __init__(
        self, connect: Callable[[], Awaitable[Session]], rules: Rules, listener: CommitListener
    ) -> None:
        self._connect = connect
        self._rules = rules
        self._listener = listener
        self._session: Session | None = None
        self._head: Head | None = None
        self._old_pid = 0
        self._unknown: CommitUnknownError | None = None
        self._lost: Callable[[Writer], None] = lambda _: None

    @property
    def head(self) -> Head | None:
        """The head of the chain it owns or, while it is disconnected, owned."""
        return self._head

    @property
    def pid(self) -> int:
        """Process id of its backend; 0 while it is disconnected."""
        return 0 if self._session is None else self._session.pid

    async def open(self) -> None:
        """Connect, or connect again: settle what an unknown commit came to, then own a chain.

        Raises what the driver raises, or ChainBusyError; may be called again then.
        """
        self.close()
        session = await self._connect()
        try:
            async with asyncio.timeout(_TRANSACTION_SECONDS):
                await self._resume(session)
        except BaseException:
            session.terminate()
            raise
        self._session = session
        self._old_pid = session.pid
        session.on_end(self._ended)

    def on_loss(self, callback: Callable[[Writer], None]) -> None:
        """Call back when the connection ends that the writer has, whether it is at work or not."""
        self._lost = callback

    def _ended(self, session: Session) -> None:
        if session is self._session:
            self._lost(self)

    def close(self) -> None:
        """Drop the connection; the chain is free then."""
        if self._session is not None:
            self._session.terminate()
            self._session = None

    async def _resume(self, session: Session) -> None:
        head = self._head
        mine = head is not None and await chains.reown(session, head, self._old_pid)
        await self._settle(session)
        if head is not None and mine and await chains.is_current(session, head):
            self._head = await chains.read_head(session, head.chain, head.timeline)
            return
        if head is not None and mine:
            await chains.release(session, head)
        self._head = None
        owned = await chains.own(session, self._rules.ledger)
        self._head = owned.head
        if owned.opened is not None:
            self._listener.committed(owned.opened)

    async def _settle(self, session: Session) -> None:
        """Ask whether the block of an unknown commit is there; its session is over, so that is final."""
        unknown = self._unknown
        if unknown is None:
            return
        block = unknown.block
        stored = await session.fetch_value("block_at", block.chain, block.height)
        self._unknown = None
        committed = stored == block.hash
        logger.warning(
            "the outcome of a commit was asked of the database",
            extra={
                "action": "commit_settled",
                "chain": block.chain,
                "height": block.height,
                "committed": committed,
            },
        )
        if committed:
            self._listener.committed(block)
        if not unknown.decided.done():
            unknown.decided.set_result(committed)

    async def write(self, items: Sequence[Item], *, plain: bool) -> list[Outcome]:
        """Write a batch in one transaction and return an outcome per item.

        Raises WriterLostError or CommitUnknownError, after which only `open` helps, or what went wrong with
        the batch, which is undone then.
        """
        session, head = self._session, self._head
        if session is None or head is None:
            raise WriterLostError("the writer is not connected")
        start = time.perf_counter()
        try:
            async with asyncio.timeout(_TRANSACTION_SECONDS):
                block, results = await self._transact(session, head, items, plain)
        except BaseException as error:
            await self._undo(session, error)
            raise
        if block is not None:
            await self._commit(session, block, results)
            self._head = Head(head.chain, head.timeline, block.height, block.hash)
            self._listener.committed(block)
        else:
            await self._commit_silently(session)
        metrics.count_batch(items, results, time.perf_counter() - start)
        return results

    async def _transact(
        self, session: Session, head: Head, items: Sequence[Item], plain: bool
    ) -> tuple[Block | None, list[Outcome]]:
        draft = Draft()
        results: list[Outcome | None] = [None] * len(items)
        await session.begin()
        await self._fill(session, make_plan(items, plain=plain), draft, results)
        if any(each is None for each in results):
            raise RuntimeError("an item was left without an outcome")
        answered = cast(list[Outcome], results)
        if not draft:
            return None, answered
        if draft.event_bytes > _MOST_EVENT_BYTES and len(items) > 1:
            raise BlockTooLargeError(f"{len(items)} items make {draft.event_bytes} bytes of events")
        block = draft.seal(head)
        await draft.append(session, block)
        return block, answered

    async def _fill(self, session: Session, plan: Plan, draft: Draft, results: list[Outcome | None]) -> None:
        rest: list[Placed[Item]] = plan.careful
        rules = self._rules
        if plan.creates:
            rest += await plain_path.create(session, plan.creates, draft, results)
        if plan.begins:
            rest += await plain_path.begin(session, plan.begins, draft, results, rules)
        if plan.renews:
            rest += await plain_path.renew(session, plan.renews, draft, results, rules)
        if plan.records:
            rest += await plain_path.record(session, plan.records, draft, results)
        if plan.commits:
            rest += await plain_path.commit(session, plan.commits, draft, results)
        if rest:
            await self._take_care(session, sorted(rest, key=lambda each: each[0]), draft, results)
        begun = [place for place, item in rest if isinstance(item, Begin)]
        await grants.add_bodies(session, results, begun)

    async def _take_care(
        self,
        session: Session,
        placed: Sequence[Placed[Item]],
        draft: Draft,
        results: list[Outcome | None],
    ) -> None:
        if not draft.now_micros:
            draft.now_micros = await session.fetch_value("now")
        creates: list[Placed[Create]] = []
        applies: list[Placed[Apply]] = []
        others: list[Placed[JobItem]] = []
        for place, item in placed:
            if isinstance(item, Create):
                creates.append((place, item))
            elif isinstance(item, Apply):
                applies.append((place, item))
            else:
                others.append((place, item))
        if creates:
            await requests.create_jobs(session, creates, draft, results)
        if others:
            await careful_path.decide_jobs(session, others, draft, results, self._rules)
        if applies:
            await shelves.apply_definitions(session, applies, draft, results)

    async def _undo(self, session: Session, error: BaseException) -> None:
        """Roll back; when that cannot be, or the chain turns out to be another's, the writer is lost."""
        if not isinstance(error, Exception):
            self.close()
            return
        forked = isinstance(error, asyncpg.UniqueViolationError) and error.constraint_name == "blocks_pkey"
        if session.closed or is_outage(error) or forked:
            self.close()
            raise WriterLostError(f"{type(error).__name__}: {error}") from error
        try:
            await session.rollback()
        except Exception as second:
            self.close()
            raise WriterLostError(f"{type(second).__name__}: {second}") from error

    async def _commit(self, session: Session, block: Block, results: list[Outcome]) -> None:
        try:
            await session.commit()
        except BaseException as error:
            self._unknown = CommitUnknownError(block, results)
            self.close()
            if not isinstance(error, Exception):
                raise
            raise self._unknown from error

    async def _commit_silently(self, session: Session) -> None:
        """Commit what left no trace in the log; if it is lost, it may simply be done again."""
        try:
            await session.commit()
        except Exception as error:
            self.close()
            raise WriterLostError(f"{type(error).__name__}: {error}") from error
