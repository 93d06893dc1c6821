from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.definitions import digest_of, normalised
from services.ledger.items import Apply, Begin, Commit, Create, Item, Record, Renew
from services.ledger.plan import make_plan
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_STANDARD
from workmesh.ledger.v1.job_pb2 import StateWrite
from workmesh.ledger.v1.ledger_write_service_pb2 import NewJob

IDS = st.sampled_from([f"job-{number}" for number in range(12)])


def create(job_id: str, request: str) -> Item:
    return Create(NewJob(job_id=job_id, client_id="acme", request_id=request), "gateway-1", 1)


ITEMS: st.SearchStrategy[Item] = st.one_of(
    st.builds(create, IDS, IDS),
    st.builds(lambda job_id: Begin(job_id, 1, "lease", "agent-1"), IDS),
    st.builds(lambda job_id: Renew(job_id, 1), IDS),
    st.builds(lambda job_id: Record(job_id, 1, (), "agent-1", 1), IDS),
    st.builds(lambda job_id: Commit(job_id, 1, b"{}", (), (), "agent-1", 1), IDS),
    st.builds(
        lambda job_id: Commit(job_id, 1, b"{}", (), [StateWrite(collection="c", key="k")], "agent-1", 1), IDS
    ),
)


def _job_of(item: Item) -> str:
    assert not isinstance(item, Apply)
    return item.job.job_id if isinstance(item, Create) else item.job_id


@given(st.lists(ITEMS, max_size=20))
def test_every_item_goes_one_way_and_no_job_goes_two(items: list[Item]) -> None:
    plan = make_plan(items)
    plain: list[tuple[int, Item]] = [*plan.creates, *plan.begins, *plan.renews, *plan.records, *plan.commits]
    assert sorted(place for place, _ in [*plain, *plan.careful]) == list(range(len(items)))
    assert [place for place, _ in plan.careful] == sorted(place for place, _ in plan.careful)
    named = [_job_of(item) for _, item in plain]
    assert len(set(named)) == len(named)
    careful = {_job_of(item) for _, item in plan.careful if not isinstance(item, Create)}
    assert careful.isdisjoint(named)
    assert not any(item.writes for _, item in plan.commits)


@given(st.lists(ITEMS, max_size=20))
def test_without_the_plain_way_all_items_keep_their_order(items: list[Item]) -> None:
    plan = make_plan(items, plain=False)
    assert [item for _, item in plan.careful] == items


def test_definitions_that_say_the_same_are_one() -> None:
    bare = AgentDefinition(agent="booking", code=CodeHandler(handler="booking"))
    spelled = AgentDefinition(
        agent="booking",
        code=CodeHandler(handler="booking"),
        pool="default",
        lane=LANE_STANDARD,
        version=7,
        digest="of another day",
    )
    spelled.attempt_timeout.seconds = 3600
    assert digest_of(normalised(bare)) == digest_of(normalised(spelled))
    spelled.tools.append("erp.post_order")
    assert digest_of(normalised(bare)) != digest_of(normalised(spelled))
