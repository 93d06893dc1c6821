"""Brings the image's definitions into the ledger and learns their versions."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence

from services.agent.backoff import pause
from services.agent.instance import Handlers
from services.agent.ledger import Ledger
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.errors import MeshError, from_status
from workmesh.ledger.v1.ledger_write_service_pb2 import ApplyDefinitionResult
from workmesh.sdk.outcome import is_transient
from workmesh.sdk.registry import Registry

_logger = logging.getLogger(__name__)


async def apply_definitions(ledger: Ledger, registry: Registry) -> Handlers:
    """Apply every definition and return them by agent and version; waits for the ledger.

    Raises MeshError when the ledger refuses one for good.
    """
    versions = await _versions(ledger, registry.to_protos())
    definitions = registry.definitions.values()
    _logger.info(
        "definitions applied",
        extra={
            "action": "definitions_applied",
            "agents": [f"{each.name}@{version}" for each, version in zip(definitions, versions, strict=True)],
        },
    )
    return {(each.name, version): each for each, version in zip(definitions, versions, strict=True)}


async def _versions(ledger: Ledger, definitions: Sequence[AgentDefinition]) -> list[int]:
    tries = 0
    while True:
        try:
            return [_version(result) for result in await ledger.apply(definitions)]
        except MeshError as error:
            if not is_transient(error):
                raise
            if tries in (0, 10):
                _logger.info("waiting for the ledger: %s", error, extra={"action": "ledger_awaited"})
            await asyncio.sleep(pause(tries, random.random(), error.retry_after))
            tries += 1


def _version(result: ApplyDefinitionResult) -> int:
    if result.status.code:
        raise from_status(result.status)
    return result.definition.version
