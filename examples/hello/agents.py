"""The smallest agent there is: what `make up` runs unless told otherwise."""

from __future__ import annotations

from workmesh.sdk import Context, agent

INPUT = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 100}},
    "required": ["name"],
    "additionalProperties": False,
}


@agent("hello", lane="standard", input_schema=INPUT, description="Greets whoever is named.")
async def hello(ctx: Context) -> dict[str, str]:
    """Greets whoever the input names."""
    return {"greeting": f"Hello, {ctx.input['name']}!"}
