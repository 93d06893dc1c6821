"""workmesh.gateway.v1.StateService: validate, call, convert."""

from __future__ import annotations

from typing import Any

import grpc
import orjson
from google.protobuf.struct_pb2 import Struct

from services.gateway.convert import to_timestamp
from services.gateway.identity import identify
from services.gateway.ledger import Ledger
from workmesh import errors
from workmesh.errors import Violation
from workmesh.gateway.v1 import state_service_pb2 as pb
from workmesh.gateway.v1.state_service_pb2_grpc import StateServiceServicer
from workmesh.ids import is_name
from workmesh.ledger.v1.job_pb2 import StateDocument
from workmesh.ledger.v1.ledger_read_service_pb2 import ListStatesRequest, StateRef
from workmesh.payload import json_to_struct

Context = grpc.aio.ServicerContext[Any, Any]

MOST_KEY_LENGTH = 256


class StateService(StateServiceServicer):
    """Shows the state documents of the caller's client."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def GetState(self, request: pb.GetStateRequest, context: Context) -> pb.GetStateResponse:
        caller = identify(context)
        wrong = _check_collection(request.collection)
        if not 1 <= len(request.key) <= MOST_KEY_LENGTH or "\0" in request.key:
            wrong.append(Violation("key", "has not 1 to 256 characters or holds U+0000"))
        _refuse(wrong)
        ref = StateRef(client_id=caller.client_id, collection=request.collection, key=request.key)
        response = await self._ledger.get_state(ref)
        if not response.documents or not response.documents[0].version:
            raise errors.not_found("state", f"{request.collection}/{request.key}")
        return pb.GetStateResponse(document=_to_document(response.documents[0]))

    async def ListState(self, request: pb.ListStateRequest, context: Context) -> pb.ListStateResponse:
        caller = identify(context)
        wrong = _check_collection(request.collection)
        if request.page_size < 0:
            wrong.append(Violation("page_size", "is negative"))
        _refuse(wrong)
        response = await self._ledger.list_states(
            ListStatesRequest(
                client_id=caller.client_id,
                collection=request.collection,
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        return pb.ListStateResponse(
            documents=map(_to_document, response.documents), next_page_token=response.next_page_token
        )


def _check_collection(collection: str) -> list[Violation]:
    return [] if is_name(collection) else [Violation("collection", "is not a name: [a-z0-9][a-z0-9-]{0,62}")]


def _refuse(wrong: list[Violation]) -> None:
    if wrong:
        raise errors.invalid_argument(f"{wrong[0].field} {wrong[0].description}", *wrong)


def _to_document(stored: StateDocument) -> pb.StateDocument:
    document = pb.StateDocument(
        collection=stored.collection,
        key=stored.key,
        version=stored.version,
        update_time=to_timestamp(stored.update_time_micros),
        job_id=stored.job_id,
    )
    # A Value has no walker of its own: it is filled as the only field of a Struct.
    holder = Struct()
    json_to_struct(orjson.dumps({"body": orjson.Fragment(stored.body)}), holder)
    document.body.CopyFrom(holder.fields["body"])
    return document
