from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import grpc
import pytest

from services.ledger.database import Role
from tests.integration.ledger_reads.mesh import Ledger
from tests.integration.ledger_reads.served import Served, refused
from tests.integration.ledger_reads.tampering import (
    DELETE_BLOCK,
    grow,
    tamper,
    worked,
)
from workmesh.export import read_export, write_export
from workmesh.ledger.v1 import audit_service_pb2 as pb
from workmesh.ledger.v1.audit_service_pb2 import ChainFault
from workmesh.ledger.v1.block_pb2 import ExportRecord, Position
from workmesh.ledger.v1.feed_service_pb2 import GetHeadsRequest
from workmesh.verify import verify_export


async def export(served: Served, *after: Position) -> list[ExportRecord]:
    records: list[ExportRecord] = []
    async for response in served.audit.ExportBlocks(pb.ExportBlocksRequest(after=after), timeout=30):
        assert 0 < response.ByteSize() < 3 << 20
        records += response.records
    return records


async def test_an_export_holds_and_has_every_block_as_it_was_built(
    ledger: Ledger, served: Served, tmp_path: Path
) -> None:
    await worked(ledger)
    records = await export(served)
    assert records[0].header.format == 1
    assert records[0].header.time_micros > 0
    blocks = [record.block for record in records[1:-1]]
    assert blocks == sorted(ledger.blocks.all, key=lambda block: (block.chain, block.height))
    write_export(tmp_path / "log", records)
    heads = (await served.feed.GetHeads(GetHeadsRequest(), timeout=5)).heads
    verdict = verify_export(read_export(tmp_path / "log"), known=heads)
    assert verdict.holds
    assert list(verdict.heads) == list(heads)
    assert verdict.block_count == len(ledger.blocks.all)


async def test_an_export_after_a_position_goes_on_from_there_and_holds(
    ledger: Ledger, served: Served
) -> None:
    await worked(ledger)
    heads = (await served.feed.GetHeads(GetHeadsRequest(), timeout=5)).heads
    seen = len(ledger.blocks.all)
    await worked(ledger)
    records = await export(served, *heads)
    assert len(records) - 2 == len(ledger.blocks.all) - seen
    assert list(getattr(records[0].header, "from")) == list(heads)
    assert verify_export(records).holds
    error = await refused(export(served, Position(chain=1, height=1, hash=bytes(32))))
    assert (error.code, error.reason) == (grpc.StatusCode.ABORTED, "FEED_DIVERGED")
    error = await refused(export(served, Position(chain=1, height=1)))
    assert error.violations[0].field == "after[0].hash"


async def test_an_export_of_many_parts_is_of_one_moment(ledger: Ledger, served: Served) -> None:
    labels = {f"label-{number}": "x" * 250 for number in range(30)}
    for _ in range(4):
        await ledger.create(200, labels=labels)
    writing = asyncio.create_task(grow(ledger))
    exports = [await export(served) for _ in range(2)]
    await writing
    for records in exports:
        verdict = verify_export(records)
        assert verdict.holds
        assert verdict.event_count >= 800


async def test_an_export_of_a_tampered_log_shows_what_was_done(
    ledger: Ledger, served: Served, superuser: asyncpg.Connection
) -> None:
    history = await worked(ledger)
    chain, height, _ = history.place("attempt_begun")
    await tamper(superuser, DELETE_BLOCK, chain, height)
    fault = verify_export(await export(served)).faults[0]
    assert (fault.chain, fault.height, fault.kind) == (chain, height, ChainFault.KIND_MISSING_BLOCK)


@pytest.mark.parametrize("role", [Role.READER, Role.FEED, Role.AUDITOR])
async def test_readers_have_no_right_to_write(ledger: Ledger, role: Role) -> None:
    pool = await ledger.pool(role)
    (row,) = await pool.fetch("select current_user")
    assert row[0] == role.value
    for table in ("jobs", "events", "blocks", "job_bodies", "cursors"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.fetch(f"delete from {table}")  # noqa: S608
