"""workmesh.gateway.v1.AuditService: the ledger's proofs, passed on to auditors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from services.gateway.identity import identify
from workmesh import errors
from workmesh.gateway.v1 import audit_service_pb2 as pb
from workmesh.gateway.v1.audit_service_pb2_grpc import AuditServiceServicer
from workmesh.ledger.v1 import audit_service_pb2 as ledger_pb
from workmesh.ledger.v1.audit_service_pb2_grpc import AuditServiceStub

if TYPE_CHECKING:
    from workmesh.ledger.v1.audit_service_pb2_grpc import AuditServiceAsyncStub

Context = grpc.aio.ServicerContext[Any, Any]

# A whole log is read: hours on a large one, and the caller's own deadline ends it sooner.
MOST_SECONDS = 6 * 3_600.0


class AuditService(AuditServiceServicer):
    """Verifies and exports the log for callers with role auditor or admin."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._ledger: AuditServiceAsyncStub = AuditServiceStub(channel)

    async def VerifyChains(
        self, request: pb.VerifyChainsRequest, context: Context
    ) -> AsyncIterator[pb.VerifyChainsResponse]:
        identify(context).require("auditor", "admin")
        asked = ledger_pb.VerifyChainsRequest(chains=request.chains)
        try:
            async for progress in self._ledger.VerifyChains(asked, timeout=_timeout(context)):
                yield pb.VerifyChainsResponse(progress=progress)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error

    async def ExportBlocks(
        self, request: pb.ExportBlocksRequest, context: Context
    ) -> AsyncIterator[pb.ExportBlocksResponse]:
        identify(context).require("auditor", "admin")
        asked = ledger_pb.ExportBlocksRequest(after=request.after)
        try:
            async for part in self._ledger.ExportBlocks(asked, timeout=_timeout(context)):
                yield pb.ExportBlocksResponse(records=part.records)
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error


def _timeout(context: Context) -> float:
    remaining: float | None = context.time_remaining()
    return MOST_SECONDS if remaining is None else min(MOST_SECONDS, remaining)
