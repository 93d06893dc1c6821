"""Envoy at the edge: its files rendered from deploy/envoy, its endpoints kept current."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from workmesh.local.passwords import write_private
from workmesh.local.site import Site

TEMPLATES = Path(__file__).parents[2] / "deploy" / "envoy"
HOST = "127.0.0.1"
PROBE_SECONDS = 2.0
# A changed listener cuts streams of the old one after this long; a changed route or endpoint cuts none.
DRAIN_SECONDS = 600


def directory(site: Site) -> Path:
    """Where the rendered files lie, a folder a kind, because Envoy watches folders."""
    return site.profile.config / "envoy"


def command(site: Site) -> list[str]:
    """The proxy's command line."""
    return [
        str(site.binaries["envoy"].path),
        *("-c", str(directory(site) / "bootstrap.yaml")),
        # One worker: the processor time belongs to the mesh.
        *("--concurrency", "1"),
        "--disable-hot-restart",
        *("--log-level", "warning"),
        *("--drain-time-s", str(DRAIN_SECONDS)),
    ]


async def prepare(site: Site) -> None:
    """Render every file; at first no gateway is ready."""
    site.envoy_admin.unlink(missing_ok=True)
    values = {
        "node_id": f"edge-{site.profile.name}",
        "admin_socket": str(site.envoy_admin),
        "config": str(directory(site)),
        "edge_host": HOST,
        "edge_port": str(site.edge_port),
        "jwks": (site.profile.keys / "jwks.json").read_text(encoding="utf-8").strip().replace("\n", " "),
    }
    for kind in ("rds", "cds"):
        _put(site, kind, render(kind, values))
    listener = render("lds", values)
    if site.options.access_log:
        add_access_log(listener, site.profile.logs / "access.log")
    _put(site, "lds", listener)
    write_endpoints(site, ())
    write_private(directory(site) / "bootstrap.yaml", dump(render("bootstrap", values)))


def write_endpoints(site: Site, ports: Iterable[int]) -> None:
    """Tell Envoy which gateways are ready; it takes the file up within milliseconds."""
    document = render("eds", {})
    document["resources"][0]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}} for port in ports
    ]
    _put(site, "eds", document)


async def probe(site: Site) -> str | None:
    """Why Envoy does not serve yet; None when it does."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            ready = await _ask_admin(site.envoy_admin, "/ready")
            # It is "ready" without its listener too, where the port was taken.
            listeners = await _ask_admin(site.envoy_admin, "/listeners")
    except (OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    if "LIVE" not in ready:
        return ready.partition("\r\n")[0]
    return None if f":{site.edge_port}" in listeners else f"does not listen on port {site.edge_port}"


def render(kind: str, values: Mapping[str, str]) -> dict[str, Any]:
    """One template with its values filled in."""
    text = (TEMPLATES / f"{kind}.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(Template(text).substitute(values))
    return document


def dump(document: Mapping[str, Any]) -> str:
    """The document as YAML that reads like its template."""
    return yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, width=120)


def add_access_log(listener: dict[str, Any], path: Path) -> None:
    """Let the listener write a JSON line a request."""
    manager = listener["resources"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["access_log"] = [
        {
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(path),
                "log_format": {
                    "json_format": {
                        "time": "%START_TIME%",
                        "path": "%REQ(:PATH)%",
                        "client": "%REQ(X-WORKMESH-CLIENT)%",
                        "grpc_status": "%GRPC_STATUS%",
                        "status": "%RESPONSE_CODE%",
                        "flags": "%RESPONSE_FLAGS%",
                        "detail": "%RESPONSE_CODE_DETAILS%",
                        "milliseconds": "%DURATION%",
                        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
                        "traceparent": "%REQ(TRACEPARENT)%",
                    }
                },
            },
        }
    ]


def _put(site: Site, kind: str, document: Mapping[str, Any]) -> None:
    """Replace a file by rename: Envoy takes no notice of one written in place."""
    folder = directory(site) / kind
    folder.mkdir(parents=True, exist_ok=True)
    write_private(folder / f"{kind}.yaml", dump(document))


async def _ask_admin(socket: Path, path: str) -> str:
    """The answer of the administration interface, headers included."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
        return (await reader.read()).decode()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated parts out, without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True
