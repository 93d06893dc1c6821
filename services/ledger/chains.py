"""Ownership of chains: a chain belongs to the session that holds its advisory lock.

The lock ends with its session, and a session ends after its transaction: whoever holds a chain's lock knows
that nothing of a former owner is still under way.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from services.ledger.draft import Draft, Head
from services.ledger.session import Session
from workmesh.chain import GENESIS
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import Actor, ChainOpened, Event

logger = logging.getLogger(__name__)

# First half of the advisory locks' keys; the chain's number is the second.
LOCK_CLASS: Final = 0x776D_0001

_OLD_SESSION_SECONDS: Final = 5.0
_PROBE_SECONDS: Final = 0.02


class ChainBusyError(Exception):
    """The backend of a lost connection still holds the chain."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A chain that this session owns; `opened` is its first block when the session has just made it."""

    head: Head
    opened: Block | None = None


async def own(session: Session, actor: Actor) -> Owned:
    """Take a chain of the current timeline that nobody owns, or open a new one."""
    timeline = await session.fetch_value("timeline")
    for row in await session.fetch("chains_of_timeline", timeline):
        if await session.fetch_value("take_chain", LOCK_CLASS, row["chain"]):
            head = await read_head(session, row["chain"], timeline)
            _log("chain_taken", head, actor)
            return Owned(head)
    return await _open(session, timeline, actor)


async def reown(session: Session, head: Head, old_pid: int) -> bool:
    """Take a chain back after its connection was lost; False if another session has it by now.

    Returns only when the old session is over, so that its last transaction has its outcome. ChainBusyError
    when it is not over within seconds.
    """
    try:
        async with asyncio.timeout(_OLD_SESSION_SECONDS):
            while not await session.fetch_value("take_chain", LOCK_CLASS, head.chain):
                holder = await session.fetch_value("chain_holder", LOCK_CLASS, head.chain)
                if holder is not None and holder != old_pid:
                    return False
                await asyncio.sleep(_PROBE_SECONDS)
    except TimeoutError:
        raise ChainBusyError(f"backend {old_pid} still holds chain {head.chain}") from None
    return True


async def is_current(session: Session, head: Head) -> bool:
    """Tell whether the server still writes the timeline that a chain belongs to."""
    return bool(await session.fetch_value("timeline") == head.timeline)


async def release(session: Session, head: Head) -> None:
    """Give a chain back."""
    await session.fetch("release_chain", LOCK_CLASS, head.chain)


async def read_head(session: Session, chain: int, timeline: int) -> Head:
    """Return the newest block of a chain."""
    rows = await session.fetch("head", chain)
    return Head(chain, timeline, *rows[0]) if rows else Head(chain, timeline, 0, GENESIS)


async def _open(session: Session, timeline: int, actor: Actor) -> Owned:
    chain = await session.fetch_value("next_chain")
    while not await session.fetch_value("take_chain", LOCK_CLASS, chain):
        chain += 1
    draft = Draft()
    await session.begin()
    draft.now_micros = await session.fetch_value("now")
    opened = ChainOpened(chain=chain, timeline=timeline, instance=actor.instance)
    event = Event(time_micros=draft.now_micros, actor=actor, chain_opened=opened)
    draft.add_event(event, "chain_opened")
    block = draft.seal(Head(chain, timeline, 0, GENESIS))
    await session.fetch("add_chain", chain, timeline, actor.instance, draft.now_micros)
    await draft.append(session, block)
    await session.commit()
    head = Head(chain, timeline, block.height, block.hash)
    _log("chain_opened", head, actor)
    return Owned(head, block)


def _log(action: str, head: Head, actor: Actor) -> None:
    logger.info(
        "owning a chain",
        extra={"action": action, "chain": head.chain, "height": head.height, "owner": actor.instance},
    )
