"""The handler API: what authors of agents import.

from workmesh.sdk import Context, agent

@agent("booking", lane="critical", requires=["erp"], tools=["erp.post_order"])
async def booking(ctx: Context) -> dict[str, Any]:
    order = await ctx.tool("erp.post_order", {"container": ctx.input["container"]})
    return {"order": order["id"]}
"""

from __future__ import annotations

from workmesh.sdk.context import Context
from workmesh.sdk.definition import DefinitionError, RetryPolicy, agent
from workmesh.sdk.errors import BusinessError, HandlerError, NonRetryableError, RetryableError, ToolError

__all__ = [
    "BusinessError",
    "Context",
    "DefinitionError",
    "HandlerError",
    "NonRetryableError",
    "RetryPolicy",
    "RetryableError",
    "ToolError",
    "agent",
]
