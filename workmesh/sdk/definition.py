"""The `@agent` decorator: an async function of a context becomes an agent definition."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, get_args

import orjson
from google.protobuf.duration_pb2 import Duration

from workmesh import payload
from workmesh.common.v1 import definition_pb2, job_pb2
from workmesh.errors import MeshError
from workmesh.ids import NAME_PATTERN, is_name
from workmesh.schema import CompiledSchema

if TYPE_CHECKING:
    from workmesh.sdk.context import Context

Handler = Callable[["Context"], Awaitable[Mapping[str, Any]]]
AnyHandler = TypeVar("AnyHandler", bound=Callable[..., Awaitable[Any]])
LaneName = Literal["critical", "standard", "batch"]

DEFAULT_ATTEMPT_TIMEOUT: Final = 3600.0
MOST_TOOLS: Final = 256
MOST_REQUIRES: Final = 32
MOST_DESCRIPTION_LENGTH: Final = 1_000

_ATTRIBUTE: Final = "__workmesh_agent__"
_TOOL = re.compile(rf"{NAME_PATTERN}\.([a-z0-9_][a-z0-9_\-]{{0,62}}|\*)")
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


class DefinitionError(ValueError):
    """An agent's definition is wrong; the message names the agent and every problem."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failed attempts are repeated; delays are in seconds, drawn with full jitter.

    ValueError lists what is out of range.
    """

    max_attempts: int = 10
    initial_delay: float = 1.0
    multiplier: float = 2.0
    max_delay: float = 60.0
    non_retryable_reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "non_retryable_reasons", tuple(self.non_retryable_reasons))
        problems = list(self._problems())
        if problems:
            raise ValueError("retry policy: " + "; ".join(problems))

    def _problems(self) -> Iterable[str]:
        if not 1 <= self.max_attempts <= 100:
            yield "max_attempts is 1 to 100"
        if not 0.01 <= self.initial_delay <= self.max_delay:
            yield "initial_delay is at least 10 ms and at most max_delay"
        if not 1.0 <= self.multiplier <= 10.0:
            yield "multiplier is 1 to 10"
        if not self.max_delay <= 86_400:
            yield "max_delay is at most 24 h"
        if len(self.non_retryable_reasons) > 32 or not all(
            map(_REASON.fullmatch, self.non_retryable_reasons)
        ):
            yield "non_retryable_reasons are at most 32 names like INTEGRATION_REFUSED"

    def to_proto(self) -> job_pb2.RetryPolicy:
        """Return the policy as the contracts have it."""
        return job_pb2.RetryPolicy(
            max_attempts=self.max_attempts,
            initial_delay=_duration(self.initial_delay),
            multiplier=self.multiplier,
            max_delay=_duration(self.max_delay),
            non_retryable_reasons=self.non_retryable_reasons,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """An agent that is code: what the ledger stores of it, and the function."""

    name: str
    function: Handler
    pool: str = "default"
    lane: LaneName = "standard"
    requires: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    retry: RetryPolicy | None = None
    attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT
    description: str = ""
    output_check: CompiledSchema | None = field(init=False, default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        problems = [*self._name_problems(), *self._other_problems()]
        if problems:
            raise DefinitionError(f"agent {self.name!r}: " + "; ".join(problems))
        if self.output_schema is not None:
            object.__setattr__(self, "output_check", _compile(self.output_schema, "output"))

    def to_proto(self) -> definition_pb2.AgentDefinition:
        """Return what is applied to the ledger."""
        proto = definition_pb2.AgentDefinition(
            agent=self.name,
            code=definition_pb2.CodeHandler(handler=self.name),
            pool=self.pool,
            lane=job_pb2.Lane.Value(f"LANE_{self.lane.upper()}"),
            tools=self.tools,
            requires=self.requires,
            retry_policy=self.retry.to_proto() if self.retry is not None else None,
            attempt_timeout=_duration(self.attempt_timeout),
            description=self.description,
        )
        if self.input_schema is not None:
            payload.json_to_struct(orjson.dumps(self.input_schema), proto.input_schema)
        if self.output_schema is not None:
            payload.json_to_struct(orjson.dumps(self.output_schema), proto.output_schema)
        return proto

    def _name_problems(self) -> Iterable[str]:
        if not is_name(self.name):
            yield f"its name does not match {NAME_PATTERN}"
        if not is_name(self.pool):
            yield f"pool {self.pool!r} does not match {NAME_PATTERN}"
        if self.lane not in get_args(LaneName):
            yield f"lane {self.lane!r} is none of {', '.join(get_args(LaneName))}"
        if len(self.tools) > MOST_TOOLS or len(self.requires) > MOST_REQUIRES:
            yield f"it names more than {MOST_TOOLS} tools or requires more than {MOST_REQUIRES} integrations"
        for tool in self.tools:
            if _TOOL.fullmatch(tool) is None:
                yield f"tool {tool!r} is not integration.operation or integration.*"
        for integration in self.requires:
            if not is_name(integration):
                yield f"required integration {integration!r} does not match {NAME_PATTERN}"

    def _other_problems(self) -> Iterable[str]:
        if not inspect.iscoroutinefunction(self.function):
            yield "the handler is not an async function"
        elif not _takes_one_argument(self.function):
            yield "the handler takes one argument, the context"
        if not 1.0 <= self.attempt_timeout <= 86_400.0:
            yield "attempt_timeout is 1 s to 24 h"
        if len(self.description) > MOST_DESCRIPTION_LENGTH or "\0" in self.description:
            yield f"its description has more than {MOST_DESCRIPTION_LENGTH} characters or holds U+0000"
        for schema, name in ((self.input_schema, "input"), (self.output_schema, "output")):
            if schema is not None:
                try:
                    _compile(schema, name)
                except (MeshError, orjson.JSONEncodeError) as error:
                    yield f"{name}_schema: {error}"


def agent(
    name: str,
    *,
    pool: str = "default",
    lane: LaneName = "standard",
    requires: Iterable[str] = (),
    tools: Iterable[str] = (),
    input_schema: Mapping[str, Any] | None = None,
    output_schema: Mapping[str, Any] | None = None,
    retry: RetryPolicy | None = None,
    attempt_timeout: float | timedelta = DEFAULT_ATTEMPT_TIMEOUT,
    description: str | None = None,
) -> Callable[[AnyHandler], AnyHandler]:
    """Make an async function `async def handler(ctx: Context) -> dict` the handler of an agent.

    `lane` is that of jobs that name none; `tools` lists what jobs may call (`integration.operation` or
    `integration.*`), `requires` the integrations without which they do not begin; `attempt_timeout` counts
    seconds. The function itself is returned unchanged. DefinitionError says what is wrong.
    """

    def decorate(function: AnyHandler) -> AnyHandler:
        if hasattr(function, _ATTRIBUTE):
            raise DefinitionError(f"agent {name!r}: its function is the handler of another agent already")
        timeout = (
            attempt_timeout.total_seconds() if isinstance(attempt_timeout, timedelta) else attempt_timeout
        )
        definition = Definition(
            name=name,
            function=function,
            pool=pool,
            lane=lane,
            requires=_names(requires, "requires", name),
            tools=_names(tools, "tools", name),
            input_schema=input_schema,
            output_schema=output_schema,
            retry=retry,
            attempt_timeout=float(timeout),
            description=_first_line(function) if description is None else description,
        )
        setattr(function, _ATTRIBUTE, definition)
        return function

    return decorate


def definition_of(value: object) -> Definition | None:
    """Return the definition that `@agent` gave a function; None for anything else."""
    definition = getattr(value, _ATTRIBUTE, None) if inspect.isfunction(value) else None
    return definition if isinstance(definition, Definition) else None


def _names(values: Iterable[str], what: str, name: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise DefinitionError(f"agent {name!r}: {what} is a list of names, not one text")
    return tuple(values)


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True


def _first_line(function: Callable[..., Any]) -> str:
    text = inspect.getdoc(function) or ""
    return text.partition("\n")[0][:MOST_DESCRIPTION_LENGTH]


def _compile(schema: Mapping[str, Any], name: str) -> CompiledSchema:
    return CompiledSchema(orjson.dumps(schema), field=f"{name}_schema", root=name)


def _duration(seconds: float) -> Duration:
    fraction, whole = math.modf(seconds)
    return Duration(seconds=int(whole), nanos=round(fraction * 1e9))
