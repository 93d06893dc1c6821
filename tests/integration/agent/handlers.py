"""Agents of the tests that start a process."""

from __future__ import annotations

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
