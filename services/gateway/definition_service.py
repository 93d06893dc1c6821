"""workmesh.gateway.v1.DefinitionService: validate, call, convert."""

from __future__ import annotations

from typing import Any

import grpc

from services.gateway.definition_rules import check_definition
from services.gateway.definitions import Definitions
from services.gateway.identity import identify
from services.gateway.ledger import Ledger
from workmesh import errors
from workmesh.errors import Violation
from workmesh.gateway.v1 import definition_service_pb2 as pb
from workmesh.gateway.v1.definition_service_pb2_grpc import DefinitionServiceServicer
from workmesh.ledger.v1.ledger_read_service_pb2 import ListDefinitionsRequest

Context = grpc.aio.ServicerContext[Any, Any]


class DefinitionService(DefinitionServiceServicer):
    """Applies and shows agent definitions."""

    def __init__(self, ledger: Ledger, definitions: Definitions) -> None:
        self._ledger = ledger
        self._definitions = definitions

    async def ApplyAgentDefinition(
        self, request: pb.ApplyAgentDefinitionRequest, context: Context
    ) -> pb.ApplyAgentDefinitionResponse:
        caller = identify(context)
        caller.require("operator", "admin")
        check_definition(request.definition, "definition")
        result = await self._ledger.apply_definition(request.definition, caller.client_id)
        self._definitions.forget(request.definition.agent)
        return pb.ApplyAgentDefinitionResponse(definition=result.definition, created=result.created)

    async def GetAgentDefinition(
        self, request: pb.GetAgentDefinitionRequest, context: Context
    ) -> pb.GetAgentDefinitionResponse:
        identify(context)
        found = await self._ledger.get_definition(request.agent, request.version)
        if found is None:
            raise errors.not_found("agent", request.agent)
        return pb.GetAgentDefinitionResponse(definition=found)

    async def ListAgentDefinitions(
        self, request: pb.ListAgentDefinitionsRequest, context: Context
    ) -> pb.ListAgentDefinitionsResponse:
        identify(context)
        if request.page_size < 0:
            raise errors.invalid_argument("page_size is negative", Violation("page_size", "is negative"))
        response = await self._ledger.list_definitions(
            ListDefinitionsRequest(
                agent=request.agent, page_size=request.page_size, page_token=request.page_token
            )
        )
        return pb.ListAgentDefinitionsResponse(
            definitions=response.definitions, next_page_token=response.next_page_token
        )
