"""Agents that the acceptance tests run."""

from __future__ import annotations

import asyncio
from typing import Any

from workmesh.sdk import BusinessError, Context, agent

ECHO_INPUT = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 2_000_000},
        "number": {"type": "integer"},
        "nested": {"type": "object"},
    },
    "required": ["text"],
    "additionalProperties": False,
}


@agent("echo", tools=["noop.echo"], input_schema=ECHO_INPUT)
async def echo(ctx: Context) -> dict[str, Any]:
    """Asks the no-op tool and answers with its input."""
    await ctx.tool("noop.echo", {"text": ctx.input["text"][:100]})
    return {"text": ctx.input["text"], "attempt": ctx.attempt}


@agent("waiter")
async def waiter(ctx: Context) -> dict[str, Any]:
    """Runs until it is cancelled."""
    await ctx.step("wait", _wait_for_ever)
    return {}


@agent("failer")
async def failer(ctx: Context) -> dict[str, Any]:
    """Fails as its input says: `business`, `always`, or in every attempt before `until`."""
    if "business" in ctx.input:
        raise BusinessError(ctx.input["business"], "declared by the handler")
    if ctx.attempt < ctx.input.get("until", 1_000):
        raise RuntimeError(f"attempt {ctx.attempt} breaks")
    return {"attempt": ctx.attempt}


@agent("counter")
async def counter(ctx: Context) -> dict[str, Any]:
    """Adds one to a state document that many jobs share."""

    def add(count: int | None) -> int:
        return (count or 0) + 1

    await ctx.state.update("counters", ctx.input["key"], add)
    return {}


async def _wait_for_ever() -> None:
    await asyncio.Event().wait()
