"""What an agent definition must look like before it is stored for good."""

from __future__ import annotations

import re

from services.gateway.submissions import check_retry_policy
from workmesh import errors
from workmesh.common.v1.definition_pb2 import AgentDefinition
from workmesh.common.v1.job_pb2 import Lane
from workmesh.errors import MeshError, Violation
from workmesh.ids import NAME_PATTERN, is_name
from workmesh.payload import struct_to_json
from workmesh.schema import CompiledSchema

MOST_TOOLS = 256
MOST_REQUIRED = 32
MOST_DESCRIPTION_LENGTH = 1_000
LEAST_TIMEOUT_SECONDS = 1
MOST_TIMEOUT_SECONDS = 86_400

_TOOL = re.compile(rf"{NAME_PATTERN}\.([a-z0-9_][a-z0-9_\-]{{0,62}}|\*)")


def check_definition(definition: AgentDefinition, field: str) -> None:
    """Raise INVALID_ARGUMENT with a violation for each wrong field."""
    wrong: list[Violation] = []
    if not is_name(definition.agent):
        wrong.append(Violation(f"{field}.agent", "is not a name: [a-z0-9][a-z0-9-]{0,62}"))
    if definition.pool and not is_name(definition.pool):
        wrong.append(Violation(f"{field}.pool", "is not a name: [a-z0-9][a-z0-9-]{0,62}"))
    if definition.lane not in Lane.values():
        wrong.append(Violation(f"{field}.lane", "is not a lane"))
    if not is_name(definition.code.handler):
        wrong.append(Violation(f"{field}.code.handler", "is not a name: [a-z0-9][a-z0-9-]{0,62}"))
    wrong += _check_names(definition, field)
    if definition.HasField("retry_policy"):
        wrong += check_retry_policy(definition.retry_policy, f"{field}.retry_policy")
    wrong += _check_timeout(definition, field)
    for name in ("input_schema", "output_schema"):
        if definition.HasField(name):
            wrong += _check_schema(definition, name, field)
    if len(definition.description) > MOST_DESCRIPTION_LENGTH or "\0" in definition.description:
        wrong.append(Violation(f"{field}.description", "is longer than 1,000 characters or holds U+0000"))
    if wrong:
        raise errors.invalid_argument(f"{wrong[0].field} {wrong[0].description}", *wrong)


def _check_names(definition: AgentDefinition, field: str) -> list[Violation]:
    wrong = []
    if len(definition.tools) > MOST_TOOLS:
        wrong.append(Violation(f"{field}.tools", f"has more than {MOST_TOOLS} entries"))
    if any(_TOOL.fullmatch(tool) is None for tool in definition.tools):
        wrong.append(Violation(f"{field}.tools", "holds an entry that is not integration.operation"))
    if len(definition.requires) > MOST_REQUIRED:
        wrong.append(Violation(f"{field}.requires", f"has more than {MOST_REQUIRED} entries"))
    if not all(map(is_name, definition.requires)):
        wrong.append(Violation(f"{field}.requires", "holds an entry that is not a name"))
    return wrong


def _check_timeout(definition: AgentDefinition, field: str) -> list[Violation]:
    if not definition.HasField("attempt_timeout"):
        return []
    if LEAST_TIMEOUT_SECONDS <= definition.attempt_timeout.seconds <= MOST_TIMEOUT_SECONDS:
        return []
    return [Violation(f"{field}.attempt_timeout", "is not between 1 s and 24 h")]


def _check_schema(definition: AgentDefinition, name: str, field: str) -> list[Violation]:
    try:
        CompiledSchema(struct_to_json(getattr(definition, name), field=f"{field}.{name}"))
    except MeshError as error:
        return list(error.violations) or [Violation(f"{field}.{name}", error.message)]
    except ValueError as error:
        return [Violation(f"{field}.{name}", f"is not a JSON Schema: {error}"[:300])]
    return []
