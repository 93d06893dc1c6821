"""Agents of the tests that start a process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from workmesh.sdk import Context, agent


@agent("waiting", tools=["erp.*"])
async def waiting(ctx: Context) -> dict[str, Any]:
    """Waits within a tool call, and would make another."""
    ctx.uuid()
    waited = await ctx.tool("erp.wait")
    if waited == "again":
        await ctx.tool("erp.wait", {"again": True})
    return {"waited": waited}


@agent("quick")
async def quick(ctx: Context) -> dict[str, Any]:
    """Does nothing."""
    return {}


@agent("voyage", tools=["port.*"])
async def voyage(ctx: Context) -> dict[str, Any]:
    """Takes steps of every kind, in sequence and at the same time."""
    number = await ctx.step("number", lambda: ctx.input["number"] * 2)
    slot, pilot = await ctx.gather(
        ctx.tool("port.reserve", {"number": number}), ctx.tool("port.pilot", {"number": number})
    )
    paid = await ctx.tool("port.pay", {"slot": slot["key"], "pilot": pilot["key"]})
    await ctx.state.update("voyages", "count", lambda old: (old or 0) + 1)
    stamp = await ctx.tool("port.stamp", {"paid": paid["key"], "at": ctx.now().isoformat()})
    return {"number": number, "stamp": stamp["key"]}


@agent("endless")
async def endless(ctx: Context) -> dict[str, Any]:
    """Runs until it is stopped; `once` lets the next instance end it."""
    here = os.getpid()
    first = await ctx.step("first", lambda: here)
    if ctx.input.get("once") and first != here:
        return {}
    await asyncio.Event().wait()
    return {}
