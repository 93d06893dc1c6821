from __future__ import annotations

import pytest

from tests.integration.ledger.harness import OPERATOR, Ledger
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_STANDARD
from workmesh.errors import MeshError, from_status
from workmesh.ledger.v1.block_pb2 import Position


async def test_versions_count_up_and_a_known_content_keeps_its_own(ledger: Ledger) -> None:
    agent = f"versions-{id(ledger)}"
    first = await ledger.define(agent)
    second = await ledger.define(agent, tools=["erp.post_order"])
    again = await ledger.define(agent)
    spelled = await ledger.define(agent, pool="default", lane=LANE_STANDARD)
    assert [each.definition.version for each in (first, second, again, spelled)] == [1, 2, 1, 1]
    assert [each.created for each in (first, second, again, spelled)] == [True, True, False, False]
    assert again.definition == first.definition
    assert first.definition.create_time.ToMicroseconds() > 0
    default = await ledger.sql("select default_version from agents where agent = $1", agent)
    assert default[0][0] == 2


async def test_definitions_of_one_batch_see_each_other(ledger: Ledger) -> None:
    agent = f"batch-{id(ledger)}"
    made = [
        AgentDefinition(agent=agent, code=CodeHandler(handler="h"), description=text)
        for text in ("a", "b", "a")
    ]
    response = await ledger.call("ApplyDefinitions", definitions=made, actor=OPERATOR)
    assert [each.definition.version for each in response.results] == [1, 2, 1]
    assert [each.created for each in response.results] == [True, True, False]
    events = await ledger.sql("select count(*) from events where type = 'definition_applied'")
    assert events[0][0] >= 2


async def test_a_malformed_definition_leaves_no_trace(ledger: Ledger) -> None:
    before = await ledger.counts()
    wrong = AgentDefinition(agent="Upper", tools=["not a tool"], requires=[""])
    response = await ledger.call("ApplyDefinitions", definitions=[wrong], actor=OPERATOR)
    fields = {each.field for each in from_status(response.results[0].status).violations}
    assert fields == {f"definitions[0].{name}" for name in ("agent", "implementation", "tools", "requires")}
    assert await ledger.counts() == before


async def test_a_singleton_has_one_holder_and_an_epoch_that_grows(ledger: Ledger) -> None:
    name = f"projection-{id(ledger)}"

    async def acquire(holder: str) -> int:
        response = await ledger.call("AcquireSingleton", name=name, holder=holder, lease_micros=5_000_000)
        return int(response.epoch)

    assert [await acquire("a"), await acquire("a")] == [1, 1]
    with pytest.raises(MeshError, match="SINGLETON_HELD") as held:
        await acquire("b")
    assert held.value.metadata["holder"] == "a"
    await ledger.sql("update singletons set expire_time_micros = 1 where name = $1", name)
    assert await acquire("b") == 2
    await ledger.call("ReleaseSingleton", name=name, holder="a", epoch=1)
    with pytest.raises(MeshError, match="SINGLETON_HELD"):
        await acquire("a")
    await ledger.call("ReleaseSingleton", name=name, holder="b", epoch=2)
    assert await acquire("a") == 3


async def test_a_cursor_is_stored_under_the_current_epoch_only(ledger: Ledger) -> None:
    name = f"cursor-{id(ledger)}"
    positions = [Position(timeline=1, chain=1, height=5, hash=b"h" * 32)]
    with pytest.raises(MeshError, match="STALE_EPOCH"):
        await ledger.call("StoreCursor", name=name, epoch=1, positions=positions, data=b"early")
    await ledger.call("AcquireSingleton", name=name, holder="a", lease_micros=5_000_000)
    await ledger.call("StoreCursor", name=name, epoch=1, positions=positions, data=b"first")
    await ledger.sql("update singletons set expire_time_micros = 1 where name = $1", name)
    await ledger.call("AcquireSingleton", name=name, holder="b", lease_micros=5_000_000)
    with pytest.raises(MeshError, match="STALE_EPOCH"):
        await ledger.call("StoreCursor", name=name, epoch=1, positions=positions, data=b"late")
    await ledger.call("StoreCursor", name=name, epoch=2, positions=positions, data=b"second")
    rows = await ledger.sql("select epoch, positions, data from cursors where name = $1", name)
    assert (rows[0]["epoch"], rows[0]["data"]) == (2, b"second")
    assert [Position.FromString(each) for each in rows[0]["positions"]] == positions
