"""A ledger that did some of everything, and changes of its tables that it would not make."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from tests.integration.ledger_reads.mesh import Ledger, step
from workmesh.common.v1.definition_pb2 import CodeHandler
from workmesh.ledger.v1.block_pb2 import Block
from workmesh.ledger.v1.event_pb2 import Event
from workmesh.ledger.v1.job_pb2 import StateWrite

DELETE_BLOCK = "delete from blocks where chain = $1 and height = $2"
DELETE_EVENTS = "delete from events where chain = $1 and height = $2"


@dataclass(frozen=True)
class History:
    """What a job of each kind left in the log: where its events stand."""

    job_id: str
    events: Sequence[tuple[str, int, int, int]]

    def place(self, type: str) -> tuple[int, int, int]:
        """Chain, height and index of the event of a type."""
        return next((chain, height, index) for each, chain, height, index in self.events if each == type)


async def worked(ledger: Ledger) -> History:
    """Do some of everything; return the history of one job that did much."""
    await ledger.apply("booking", code=CodeHandler(handler="booking"))
    await ledger.run(3)
    (job_id,) = await ledger.create(input=b'{"number":7}')
    (epoch,) = await ledger.begin(job_id)
    await ledger.record(job_id, epoch, step("1"), step("2"))
    await ledger.effect(job_id, epoch, b'{"order":7}')
    writes = [StateWrite(collection="shipments", key="a", body=b'{"at":"sea"}')]
    await ledger.commit(job_id, epoch, b'{"order":"A7"}', [step("3")], writes)
    await ledger.run(4)
    return history_of(ledger.blocks.all, job_id)


def history_of(blocks: Iterable[Block], job_id: str) -> History:
    events = [
        (event.WhichOneof("payload") or "", block.chain, block.height, index)
        for block in blocks
        for index, event in enumerate(map(Event.FromString, block.events))
        if event.job_id == job_id
    ]
    return History(job_id, events)


async def tamper(superuser: asyncpg.Connection, statement: str, *arguments: object) -> None:
    """Change the tables as nobody but a superuser can: with the triggers off."""
    async with superuser.transaction():
        tables = ("events", "blocks", "definitions")
        for table in tables:
            await superuser.execute(f"alter table {table} disable trigger all")
        assert await superuser.execute(statement, *arguments) != "UPDATE 0"
        for table in tables:
            await superuser.execute(f"alter table {table} enable always trigger {table}_append_only")


async def grow(ledger: Ledger) -> None:
    for _ in range(20):
        await ledger.run(2)
