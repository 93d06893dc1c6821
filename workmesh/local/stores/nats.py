"""NATS with JetStream on a loopback port, one user a service.

The scheduler alone writes; the gateway may only listen; `operator` is the stack's own and the tests'.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from urllib.parse import unquote, urlsplit

from workmesh.local.passwords import write_private
from workmesh.local.site import Site

PROBE_SECONDS = 2.0
OPERATOR, SCHEDULER, GATEWAY = "nats-operator", "nats-scheduler", "nats-gateway"
USERS = (OPERATOR, SCHEDULER, GATEWAY)

CONFIGURATION = """\
server_name: "{name}"
listen: "127.0.0.1:{port}"
max_payload: 4MB
max_pending: 64MB
write_deadline: "10s"
lame_duck_duration: "30s"

jetstream {{
  store_dir: "{store}"
  max_memory_store: 64MB
  max_file_store: 20GB
}}

authorization {{
  timeout: 5
  users: [
    {{ user: operator, password: "{operator}" }}
    {{
      user: scheduler, password: "{scheduler}"
      permissions: {{
        publish: ["jobs.>", "delay.>", "parked.>", "dlq.>", "events.>", "hints.>", "$JS.API.>", "$JS.ACK.>"]
        subscribe: ["_INBOX.>", "_INBOX_scheduler.>", "hints.>", "events.>", "$JS.EVENT.ADVISORY.>"]
      }}
    }}
    {{
      user: gateway, password: "{gateway}"
      permissions: {{
        publish: {{ deny: ">" }}
        subscribe: ["hints.>", "events.>"]
      }}
    }}
  ]
}}
"""


def url(site: Site, user: str) -> str:
    """The URL with the credentials of one of USERS."""
    external = site.external("nats")
    name = user.removeprefix("nats-")
    return external or f"nats://{name}:{site.passwords[user]}@127.0.0.1:{site.nats_port}"


def command(site: Site) -> list[str]:
    """The server's command line."""
    return [str(site.binaries["nats"].path), "--config", str(site.profile.config / "nats.conf")]


async def prepare(site: Site) -> None:
    """Write the configuration."""
    text = CONFIGURATION.format(
        name=f"workmesh-{site.profile.name}",
        port=site.nats_port,
        store=site.profile.data / "nats",
        operator=site.passwords[OPERATOR],
        scheduler=site.passwords[SCHEDULER],
        gateway=site.passwords[GATEWAY],
    )
    write_private(site.profile.config / "nats.conf", text)


async def probe(site: Site) -> str | None:
    """Why JetStream does not answer yet; None when it does."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            answer = await _ask_jetstream(url(site, OPERATOR))
    except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"
    return None if "error" not in answer else str(answer["error"])


async def _ask_jetstream(address: str) -> dict[str, object]:
    """JetStream's account information, over the client protocol (docs.nats.io, "NATS Client Protocol").

    By hand, because the client library takes 0.6 s to import and the runner needs one request of it.
    """
    parts = urlsplit(address)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
    try:
        await reader.readline()  # INFO
        if parts.scheme == "tls":  # an external server's: that it greets must do
            return {}
        login = {"verbose": False, "lang": "workmesh", "version": "1"}
        if parts.username:
            login |= {"user": unquote(parts.username), "pass": unquote(parts.password or "")}
        request = "SUB _INBOX.ready 1\r\nPUB $JS.API.INFO _INBOX.ready 0\r\n\r\n"
        writer.write(f"CONNECT {json.dumps(login)}\r\n{request}".encode())
        while True:
            line = (await reader.readuntil(b"\r\n")).decode()
            if line.startswith("MSG "):
                body = await reader.readexactly(int(line.rsplit(" ", 1)[1]))
                answer: dict[str, object] = json.loads(body)
                return answer
            if line.startswith("-ERR"):
                raise ValueError(line.strip())
            if line.startswith("PING"):
                writer.write(b"PONG\r\n")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
