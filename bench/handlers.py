"""The benchmark job: about 1 KiB in, one idempotent no-op tool, about 1 KiB out."""

from __future__ import annotations

from typing import Any

from workmesh.sdk import Context, agent

INPUT_SCHEMA = {
    "type": "object",
    "required": ["shipment", "carrier", "priority"],
    "additionalProperties": False,
    "properties": {
        "shipment": {"type": "string", "maxLength": 64},
        "carrier": {"type": "string"},
        "priority": {"type": "integer", "minimum": 0, "maximum": 9},
        "origin": {"type": "string"},
        "destination": {"type": "string"},
        "weight_kg": {"type": "number", "minimum": 0},
        "hazardous": {"type": "boolean"},
        "customer": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}},
        "items": {"type": "array", "maxItems": 100, "items": {"type": "object"}},
        "tags": {"type": "array", "items": {"type": "string"}},
        "remark": {"type": "string", "maxLength": 4000},
        "reference": {"type": "string"},
    },
}


@agent("bench", lane="standard", tools=["bench.echo"], input_schema=INPUT_SCHEMA)
async def bench(ctx: Context) -> dict[str, Any]:
    """Ask the no-op tool once and answer with the input and its word."""
    told = await ctx.tool(
        "bench.echo", {"shipment": ctx.input["shipment"], "carrier": ctx.input["carrier"], "quantity": 2}
    )
    return {**ctx.input, "approved": told["ok"]}
