"""Connected instances and jobs put aside for want of one."""

from __future__ import annotations

from services.scheduler.aside import Aside
from services.scheduler.instances import Cancel, Drain, Instance, Instances, OfferNotice, combine
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch
from workmesh.scheduler.v1.lease_service_pb2 import HandlerVersion, Hello, Offer

WORKER = ("worker", 1)


def instance(name: str = "a", slots: int = 4, agents: tuple[str, ...] = ("worker",)) -> Instance:
    handlers = [HandlerVersion(agent=agent, version=1) for agent in agents]
    return Instance(Hello(instance=name, pools=["default"], handlers=handlers, slots=slots), heard_at=100.0)


def test_credit_never_exceeds_the_slots() -> None:
    one = instance(slots=4)
    one.grant(3)
    one.grant(3)
    assert one.credit == 4


def test_the_instance_with_the_largest_free_part_is_chosen() -> None:
    instances = Instances(silence=3.0)
    small, large = instance("small", 2), instance("large", 10)
    for each in (small, large):
        instances.connect(each)
    small.grant(2)
    large.grant(6)
    assert instances.choose("default", WORKER, 100.0) is small
    small.credit = 1
    assert instances.choose("default", WORKER, 100.0) is large
    assert instances.free_slots("default", 100.0) == 7


def test_only_an_instance_that_has_the_version_is_chosen() -> None:
    instances = Instances(silence=3.0)
    one = instance()
    instances.connect(one)
    one.grant(4)
    assert instances.choose("default", ("worker", 2), 100.0) is None
    assert instances.choose("other", WORKER, 100.0) is None


def test_a_silent_or_draining_instance_gets_nothing_until_it_is_heard() -> None:
    instances = Instances(silence=3.0)
    one = instance()
    instances.connect(one)
    one.grant(4)
    assert instances.free_slots("default", 103.5) == 0
    assert instances.choose("default", WORKER, 103.5) is None
    one.heard_at = 103.0
    assert instances.free_slots("default", 103.5) == 4
    one.draining = True
    assert instances.free_slots("default", 103.5) == 0


def test_a_second_connection_takes_the_place_of_the_first() -> None:
    instances = Instances(silence=3.0)
    first, second = instance(), instance()
    assert instances.connect(first) is None
    assert instances.connect(second) is first
    instances.disconnect(first)
    assert instances.get("a") is second
    assert instances.serves("default")
    instances.disconnect(second)
    assert not instances.serves("default")


def test_what_was_put_in_one_turn_goes_in_one_response() -> None:
    offers = [OfferNotice(job(number), f"lease-{number}") for number in (1, 3)]
    response = combine([offers[0], Cancel("2", "lease-2"), offers[1], Drain()])
    assert response.offers[0] == Offer(job_id="1", dispatch=1, lease_id="lease-1", agent="worker", version=1)
    assert [offer.lease_id for offer in response.offers] == ["lease-1", "lease-3"]
    assert [(cancel.job_id, cancel.lease_id) for cancel in response.cancels] == [("2", "lease-2")]
    assert response.drain


def job(number: int, agent: str = "worker") -> Dispatch:
    return Dispatch(job_id=str(number), dispatch=1, agent=agent, version=1)


def test_jobs_put_aside_are_fetched_by_handler_oldest_first() -> None:
    aside = Aside()
    for each in (job(1), job(2, "other"), job(3), job(4)):
        aside.put(each)
    assert [each.job_id for each in aside.take(frozenset({WORKER}), 2)] == ["1", "3"]
    assert aside.holds(("4", 1))
    assert not aside.holds(("1", 1))
    assert [each.job_id for each in aside.take(frozenset({WORKER, ("other", 1)}), 10)] != []
    assert len(aside) == 0


def test_of_too_many_jobs_put_aside_the_oldest_is_forgotten() -> None:
    aside = Aside(most=2)
    for number in range(5):
        aside.put(job(number))
    assert len(aside) == 2
    assert [each.job_id for each in aside.take(frozenset({WORKER}), 10)] == ["3", "4"]


def test_a_job_that_is_back_is_put_aside_no_longer() -> None:
    aside = Aside()
    aside.put(job(1))
    aside.discard(("1", 1))
    aside.discard(("unknown", 1))
    assert aside.take(frozenset({WORKER}), 10) == []
