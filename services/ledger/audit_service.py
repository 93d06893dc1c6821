"""AuditService: proof of the log and its export.

auditor = ReadPool(await open_pool(url, Role.AUDITOR, application, size))
service = AuditService(Auditor(auditor), Exporter(auditor, clock))
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from services.ledger.audit import Auditor
from services.ledger.feed_service import check_positions
from services.ledger.log_export import Exporter
from services.ledger.read_checks import Checks
from workmesh.ledger.v1 import audit_service_pb2 as pb
from workmesh.ledger.v1.audit_service_pb2_grpc import AuditServiceServicer

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AuditService(AuditServiceServicer):
    """Verifies and exports chains; constructed with what does either."""

    def __init__(self, auditor: Auditor, exporter: Exporter) -> None:
        self._auditor = auditor
        self._exporter = exporter

    async def VerifyChains(
        self, request: pb.VerifyChainsRequest, context: Context
    ) -> AsyncIterator[pb.VerifyChainsResponse]:
        checks = Checks()
        for index, chain in enumerate(request.chains):
            checks.require(chain > 0, f"chains[{index}]", "is not a chain's number")
        checks.done()
        async with aclosing(self._auditor.verify(request.chains)) as run:
            async for findings in run:
                yield pb.VerifyChainsResponse(
                    block_count=findings.block_count,
                    event_count=findings.event_count,
                    finished=findings.finished,
                    faults=findings.faults,
                    heads=findings.heads,
                )

    async def ExportBlocks(
        self, request: pb.ExportBlocksRequest, context: Context
    ) -> AsyncIterator[pb.ExportBlocksResponse]:
        check_positions(request.after)
        async with aclosing(self._exporter.export(request.after)) as run:
            async for records in run:
                yield pb.ExportBlocksResponse(records=records)
