"""The ledger's reading services behind gRPC, as callers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from services.ledger.audit import Auditor
from services.ledger.audit_service import AuditService
from services.ledger.block_reader import BlockReader
from services.ledger.database import Role
from services.ledger.definition_reads import DefinitionReads
from services.ledger.feed import Feed
from services.ledger.feed_service import FeedService
from services.ledger.log_export import Exporter
from services.ledger.read_service import ReadService
from services.ledger.reads import JobReads
from services.ledger.state_reads import StateReads
from tests.integration.ledger_reads.mesh import ALLOWANCE_MICROS, Ledger
from workmesh.clock import SystemClock
from workmesh.errors import MeshError, from_rpc_error
from workmesh.ledger.v1.audit_service_pb2_grpc import (
    AuditServiceStub,
    add_AuditServiceServicer_to_server,
)
from workmesh.ledger.v1.feed_service_pb2_grpc import (
    FeedServiceStub,
    add_FeedServiceServicer_to_server,
)
from workmesh.ledger.v1.ledger_read_service_pb2_grpc import (
    LedgerReadServiceStub,
    add_LedgerReadServiceServicer_to_server,
)
from workmesh.rpc.client import open_channel
from workmesh.rpc.server import MeshServer, ServerSettings

if TYPE_CHECKING:
    from workmesh.ledger.v1.audit_service_pb2_grpc import AuditServiceAsyncStub
    from workmesh.ledger.v1.feed_service_pb2_grpc import FeedServiceAsyncStub
    from workmesh.ledger.v1.ledger_read_service_pb2_grpc import LedgerReadServiceAsyncStub


@dataclass(frozen=True)
class Served:
    """Stubs of the three services, and what serves them."""

    reads: LedgerReadServiceAsyncStub
    feed: FeedServiceAsyncStub
    audit: AuditServiceAsyncStub
    jobs: JobReads
    blocks: Feed
    server: MeshServer


@asynccontextmanager
async def serve(ledger: Ledger, feed: Feed | None = None) -> AsyncIterator[Served]:
    """Serve a ledger's readers on a free port."""
    reader = await ledger.pool(Role.READER)
    feed_pool, auditor = await ledger.pool(Role.FEED), await ledger.pool(Role.AUDITOR)
    jobs = JobReads(reader, clock_allowance_micros=ALLOWANCE_MICROS)
    read_service = ReadService(jobs, DefinitionReads(reader), StateReads(reader))
    feed = feed or await ledger.feed()
    server = MeshServer(ServerSettings(name="ledger", grace=1.0))
    package = "workmesh.ledger.v1"
    server.add(add_LedgerReadServiceServicer_to_server, read_service, f"{package}.LedgerReadService")
    feed_service = FeedService(feed, BlockReader(feed_pool.fetch))
    server.add(add_FeedServiceServicer_to_server, feed_service, f"{package}.FeedService")
    audit_service = AuditService(Auditor(auditor), Exporter(auditor, SystemClock()))
    server.add(add_AuditServiceServicer_to_server, audit_service, f"{package}.AuditService")
    port = await server.start()
    server.set_serving(True)
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            stubs = LedgerReadServiceStub(channel), FeedServiceStub(channel), AuditServiceStub(channel)
            yield Served(*stubs, jobs, feed, server)
    finally:
        await server.stop(0.0)
        await read_service.close()


async def refused(call: Awaitable[object]) -> MeshError:
    """Await a call that is refused, and return how."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
