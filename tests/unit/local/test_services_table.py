from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.local.sites import make_site
from workmesh.local.environment import service_environment
from workmesh.local.errors import StackError
from workmesh.local.options import StackOptions, external_urls
from workmesh.local.replica import Replica, Roster, replica_name
from workmesh.local.services import SERVICES, TABLE, select


def roster() -> Roster:
    filled = Roster()
    for name, port in (("ledger", 1), ("scheduler", 2), ("toolhub", 3), ("gateway", 4)):
        filled.add(Replica(name, 1, name, port))
    filled.add(Replica("agent", 2, "agent-2", 6))
    filled.add(Replica("agent", 1, "agent-1", 5))
    return filled


def environment(name: str, options: StackOptions | None = None) -> dict[str, str]:
    all_of_them = roster()
    return service_environment(make_site(options), all_of_them, all_of_them.replicas[name])


def test_every_service_comes_after_what_it_needs_or_uses() -> None:
    names = [service.name for service in TABLE]
    for service in TABLE:
        others = (*service.needs, *service.uses)
        assert all(names.index(other) < names.index(service.name) for other in others)


def test_a_service_stops_before_what_it_needs_or_uses() -> None:
    for service in TABLE:
        others = (*service.needs, *service.uses)
        assert all(SERVICES[other].stop_rank < service.stop_rank for other in others)


def test_agents_stop_first_and_stores_last() -> None:
    ranks = {service.name: service.stop_rank for service in TABLE}
    order = ["agent", "envoy", "gateway", "scheduler", "toolhub", "ledger", "postgres"]
    assert sorted(order, key=lambda name: -ranks[name]) == order
    assert ranks["postgres"] == ranks["nats"] == ranks["valkey"] == min(ranks.values())


def test_a_selection_keeps_the_order_of_the_table() -> None:
    assert [service.name for service in select(("ledger", "postgres"))] == ["postgres", "ledger"]
    with pytest.raises(StackError, match="no such service: mysql"):
        select(("mysql",))


def test_names_are_numbered_where_there_are_several() -> None:
    assert replica_name("ledger", 1, 1) == "ledger"
    assert replica_name("gateway", 2, 2) == "gateway-2"
    assert replica_name("agent", 1, 1) == "agent-1"


def test_replicas_come_in_the_order_of_their_numbers() -> None:
    assert roster().addresses("agent") == "127.0.0.1:5,127.0.0.1:6"
    assert roster().addresses("nats") == ""


def test_a_service_learns_where_the_others_are() -> None:
    settings = environment("agent-2")
    assert settings["WORKMESH_LEDGER_ADDRESS"] == "127.0.0.1:1"
    assert settings["WORKMESH_SCHEDULER_ADDRESS"] == "127.0.0.1:2"
    assert settings["WORKMESH_TOOLHUB_ADDRESS"] == "127.0.0.1:3"
    assert settings["WORKMESH_AGENT_INSTANCE"] == "agent-2"
    assert settings["WORKMESH_AGENT_PORT"] == "6"


def test_a_service_gets_its_own_credentials_alone() -> None:
    agent = "\n".join(environment("agent-1").values())
    assert "secret-of-nats" not in agent
    assert "postgresql://" not in agent
    gateway = environment("gateway")
    assert gateway["WORKMESH_NATS_URL"] == "nats://gateway:secret-of-nats-gateway@127.0.0.1:4222"
    assert "secret-of-nats-scheduler" not in "\n".join(gateway.values())
    assert "WORKMESH_LEDGER_DATABASE_URL" in environment("ledger")


def test_options_reach_the_services_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKMESH_LEDGER_WRITERS", "4")
    monkeypatch.setenv("WORKMESH_LOCAL_NATS_URL", "nats://secret@elsewhere")
    options = StackOptions(
        slots=3,
        handlers=("a.b", "c"),
        lease_seconds=3,
        environment={"*": {"X": "all"}, "agent": {"Y": "agents"}, "agent-2": {"Y": "second"}},
        external={},
    )
    first, second = environment("agent-1", options), environment("agent-2", options)
    assert (first["X"], first["Y"], second["Y"]) == ("all", "agents", "second")
    assert (first["WORKMESH_AGENT_SLOTS"], first["WORKMESH_HANDLERS"]) == ("3", "a.b,c")
    assert first["WORKMESH_LEASE_SECONDS"] == "3"
    ledger = environment("ledger", options)
    assert ledger["WORKMESH_LEDGER_WRITERS"] == "4"
    assert "Y" not in ledger
    assert "WORKMESH_LOCAL_NATS_URL" not in ledger


def test_external_servers_are_named_by_the_environment() -> None:
    urls = external_urls({"WORKMESH_LOCAL_POSTGRES_URL": "postgresql://db/x", "WORKMESH_LOCAL_NATS_URL": ""})
    assert urls == {"postgres": "postgresql://db/x"}
    site = replace(make_site(), options=StackOptions(external=urls))
    ledger = service_environment(site, roster(), roster().replicas["ledger"])
    assert ledger["WORKMESH_LEDGER_DATABASE_URL"] == "postgresql://db/x"
