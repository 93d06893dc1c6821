"""What is rendered from deploy/envoy."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from workmesh import keys
from workmesh.local import edge
from workmesh.local.binaries import preflight

VALUES = {
    "node_id": "edge-test",
    "admin_socket": "/tmp/admin.sock",
    "config": "/tmp/none",
    "edge_host": "127.0.0.1",
    "edge_port": "7700",
    "jwks": '{"keys": []}',
}


def routes() -> list[dict[str, Any]]:
    document = edge.render("rds", VALUES)
    found: list[dict[str, Any]] = document["resources"][0]["virtual_hosts"][0]["routes"]
    return found


def route_of(path: str) -> str:
    for route in routes():
        match = route["match"]
        if "prefix" in match and path.startswith(match["prefix"]):
            return str(route["name"])
        if "safe_regex" in match and re.fullmatch(match["safe_regex"]["regex"], path):
            return str(route["name"])
    raise AssertionError(path)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/workmesh.gateway.v1.JobService/StreamJobs", "streams"),
        ("/workmesh.gateway.v1.JobService/WatchJob", "streams"),
        ("/workmesh.gateway.v1.EventService/SubscribeEvents", "streams"),
        ("/workmesh.gateway.v1.JobService/GetJob", "reads"),
        ("/workmesh.gateway.v1.DefinitionService/ListAgentDefinitions", "reads"),
        ("/workmesh.gateway.v1.JobService/SubmitJob", "writes"),
        ("/workmesh.gateway.v1.JobService/CancelJob", "writes"),
        ("/grpc.health.v1.Health/Check", "health"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "reflection"),
        ("/workmesh.ledger.v1.LedgerWriteService/CreateJobs", "nothing"),
        ("/workmesh.gateway.v1.JobService/", "nothing"),
    ],
)
def test_each_method_has_its_route(path: str, route: str) -> None:
    assert route_of(path) == route


def test_only_reads_are_repeated() -> None:
    assert [route["name"] for route in routes() if "retry_policy" in route.get("route", {})] == ["reads"]


def test_only_health_reflection_and_nothing_go_without_a_token() -> None:
    public = [
        route["name"]
        for route in routes()
        if any(config.get("disabled") for config in route.get("typed_per_filter_config", {}).values())
    ]
    assert public == ["health", "reflection", "nothing"]


def test_the_access_log_is_added_where_it_is_wanted() -> None:
    listener = edge.render("lds", VALUES)
    assert "access_log" not in yaml.safe_dump(listener)
    edge.add_access_log(listener, Path("/tmp/access.log"))
    assert "/tmp/access.log" in edge.dump(listener)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with every file of the edge, and `whole.yaml`, all of them in one static bootstrap.

    Envoy's validation does not follow files of xDS, so each resource is shown to it in place.
    """
    keys.make_keys(tmp_path)
    values = VALUES | {"config": str(tmp_path), "jwks": (tmp_path / "jwks.json").read_text().strip()}
    listener, routes_, cluster = (edge.render(kind, values)["resources"][0] for kind in ("lds", "rds", "cds"))
    for resource in (listener, routes_, cluster):
        del resource["@type"]
    for kind in ("lds", "rds", "cds", "eds"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / f"{kind}.yaml").write_text(edge.dump(edge.render(kind, values)))
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["rds"]
    manager["route_config"] = routes_
    bootstrap = edge.render("bootstrap", values)
    (tmp_path / "bootstrap.yaml").write_text(edge.dump(bootstrap))
    del bootstrap["dynamic_resources"]
    bootstrap["static_resources"] = {"listeners": [listener], "clusters": [cluster]}
    (tmp_path / "whole.yaml").write_text(edge.dump(bootstrap))
    return tmp_path


@pytest.mark.parametrize("name", ["bootstrap.yaml", "whole.yaml"])
def test_envoy_accepts_what_is_rendered(files: Path, name: str) -> None:
    envoy = preflight(("envoy",))["envoy"].path
    done = subprocess.run(
        [str(envoy), "--mode", "validate", "--log-level", "warning", "-c", str(files / name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
