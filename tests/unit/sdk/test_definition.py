"""The decorator and the registry: what is wrong is said at import."""

from __future__ import annotations

import sys
import types
from datetime import timedelta
from typing import Any

import pytest

from workmesh.common.v1.job_pb2 import Lane
from workmesh.payload import struct_to_json
from workmesh.sdk import Context, DefinitionError, RetryPolicy, agent
from workmesh.sdk.definition import definition_of
from workmesh.sdk.registry import Registry, RegistryError


async def plain(ctx: Context) -> dict[str, Any]:
    """Book a container.

    Further lines are for programmers.
    """
    return {}


def fresh() -> Any:
    """Return a function that no decorator has met."""
    return types.FunctionType(plain.__code__, plain.__globals__, "plain")


def test_a_definition_becomes_what_the_ledger_stores() -> None:
    async def booking(ctx: Context) -> dict[str, Any]:
        """Book a container.

        Further lines are for programmers.
        """
        return {}

    decorated = agent(
        "booking",
        pool="ocean",
        lane="critical",
        requires=["erp"],
        tools=["erp.post_order", "carrier.*"],
        input_schema={"type": "object", "required": ["container"]},
        output_schema={"type": "object"},
        retry=RetryPolicy(
            max_attempts=4, initial_delay=0.25, max_delay=8, non_retryable_reasons=("INTERNAL",)
        ),
        attempt_timeout=timedelta(minutes=2),
    )(booking)
    assert decorated is booking
    definition = definition_of(booking)
    assert definition is not None
    proto = definition.to_proto()
    assert (proto.agent, proto.code.handler, proto.pool) == ("booking", "booking", "ocean")
    assert proto.lane == Lane.LANE_CRITICAL
    assert list(proto.requires) == ["erp"]
    assert list(proto.tools) == ["erp.post_order", "carrier.*"]
    assert struct_to_json(proto.input_schema) == b'{"required":["container"],"type":"object"}'
    assert proto.retry_policy.max_attempts == 4
    assert proto.retry_policy.initial_delay.nanos == 250_000_000
    assert proto.attempt_timeout.seconds == 120
    assert proto.description == "Book a container."


def test_defaults_are_left_to_the_ledger_where_it_has_them() -> None:
    function = fresh()
    agent("booking")(function)
    definition = definition_of(function)
    assert definition is not None
    proto = definition.to_proto()
    assert (proto.pool, proto.lane) == ("default", Lane.LANE_STANDARD)
    assert not proto.HasField("input_schema")
    assert not proto.HasField("retry_policy")
    assert proto.attempt_timeout.seconds == 3600


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"name": "Booking"}, "its name does not match"),
        ({"pool": "no pool"}, "pool 'no pool'"),
        ({"lane": "urgent"}, "lane 'urgent' is none of critical, standard, batch"),
        ({"tools": ["erp"]}, "tool 'erp' is not integration.operation"),
        ({"tools": "erp.post"}, "tools is a list of names, not one text"),
        ({"requires": ["ERP"]}, "required integration 'ERP'"),
        ({"requires": [f"i{n}" for n in range(33)]}, "requires more than 32"),
        ({"input_schema": {"type": "objekt"}}, "input_schema"),
        ({"output_schema": {"$ref": "https://example.org/schema"}}, "output_schema"),
        ({"attempt_timeout": 0.5}, "attempt_timeout is 1 s to 24 h"),
        ({"attempt_timeout": timedelta(days=2)}, "attempt_timeout is 1 s to 24 h"),
        ({"description": "x" * 1001}, "description"),
    ],
)
def test_a_wrong_definition_is_refused_at_import(options: dict[str, Any], complaint: str) -> None:
    arguments = {"name": "booking", **options}
    with pytest.raises(DefinitionError, match=r"agent '[Bb]ooking'") as caught:
        agent(arguments.pop("name"), **arguments)(fresh())
    assert complaint in str(caught.value)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        agent("Booking", pool="P", attempt_timeout=0)(fresh())
    assert str(caught.value).count(";") == 2


def test_a_handler_is_an_async_function_of_the_context() -> None:
    def not_async(ctx: Context) -> dict[str, Any]:
        return {}

    async def takes_none() -> dict[str, Any]:
        return {}

    async def takes_two(ctx: Context, other: int) -> dict[str, Any]:
        return {}

    with pytest.raises(DefinitionError, match="not an async function"):
        agent("booking")(not_async)  # type: ignore[type-var]
    for function in (takes_none, takes_two):
        with pytest.raises(DefinitionError, match="takes one argument"):
            agent("booking")(function)


def test_one_function_is_the_handler_of_one_agent() -> None:
    function = fresh()
    agent("booking")(function)
    with pytest.raises(DefinitionError, match="another agent already"):
        agent("other")(function)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"initial_delay": 0.001},
        {"initial_delay": 100.0},
        {"multiplier": 0.5},
        {"max_delay": 90_000.0},
        {"non_retryable_reasons": ("lower",)},
    ],
)
def test_a_retry_policy_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="retry policy"):
        RetryPolicy(**options)


def module(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> str:
    made = types.ModuleType(name)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)
    return name


def test_a_registry_collects_the_agents_of_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    booking, document = agent("booking")(fresh()), agent("document")(fresh())
    first = module("handlers_one", monkeypatch, booking=booking, helper=fresh(), number=3)
    second = module("handlers_two", monkeypatch, document=document, booking=booking)
    registry = Registry.load([first, second])
    assert list(registry.definitions) == ["booking", "document"]
    assert registry.get("booking") is definition_of(booking)
    assert registry.get("other") is None
    assert [proto.agent for proto in registry.to_protos()] == ["booking", "document"]


def test_two_functions_cannot_be_one_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    name = module("handlers_twice", monkeypatch, one=agent("booking")(fresh()), two=agent("booking")(fresh()))
    with pytest.raises(RegistryError, match="agent 'booking' is defined by"):
        Registry.load([name])


def test_modules_that_cannot_serve_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = module("handlers_none", monkeypatch, helper=fresh())
    with pytest.raises(RegistryError, match="module handlers_none defines no agent"):
        Registry.load([empty])
    with pytest.raises(RegistryError, match=r"module no\.such\.module cannot be imported"):
        Registry.load(["no.such.module"])
