"""Storing definitions: agents are locked in key order, new contents become their next versions."""

from __future__ import annotations

from collections.abc import Sequence

from services.ledger import definitions
from services.ledger.definitions import NewVersion, Shelf
from services.ledger.draft import Draft, Statements
from services.ledger.items import Applied, Apply, Outcome
from services.ledger.plan import Placed
from workmesh.common.v1.definition_pb2 import AgentDefinition


async def apply_definitions(
    statements: Statements, placed: Sequence[Placed[Apply]], draft: Draft, results: list[Outcome | None]
) -> None:
    """Answer known contents with their versions and store the others, in order."""
    agents = sorted({item.definition.agent for _, item in placed})
    await statements.fetch("add_agents", agents)
    await statements.fetch("lock_agents", agents)
    versions: dict[str, dict[str, int]] = {agent: {} for agent in agents}
    for row in await statements.fetch("find_versions", agents):
        versions[row["agent"]][row["digest"]] = row["version"]
    fresh: dict[tuple[str, int], AgentDefinition] = {}
    for place, item in placed:
        agent = item.definition.agent
        made = definitions.apply(Shelf(versions[agent]), item, draft.now_micros)
        if isinstance(made, NewVersion):
            versions[agent][item.digest] = made.definition.version
            fresh[agent, made.definition.version] = made.definition
            draft.add_event(made.event, "definition_applied")
            results[place] = Applied(made.definition, created=True)
        elif (agent, made) in fresh:
            results[place] = Applied(fresh[agent, made], created=False)
        else:
            stored = await read_definitions(statements, [(agent, made)])
            results[place] = Applied(stored[agent, made], created=False)
    if fresh:
        await _store(statements, list(fresh.values()), draft.now_micros)


async def _store(statements: Statements, fresh: Sequence[AgentDefinition], now_micros: int) -> None:
    await statements.fetch(
        "add_versions",
        [each.agent for each in fresh],
        [each.version for each in fresh],
        [each.digest for each in fresh],
        [each.SerializeToString(deterministic=True) for each in fresh],
        now_micros,
    )
    newest = {each.agent: each.version for each in fresh}
    await statements.fetch("set_defaults", list(newest), list(newest.values()), now_micros)


async def read_definitions(
    statements: Statements, refs: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], AgentDefinition]:
    """Return those definitions that exist, by agent and version."""
    rows = await statements.fetch("read_definitions", *zip(*refs, strict=True))
    return {(row["agent"], row["version"]): AgentDefinition.FromString(row["body"]) for row in rows}
