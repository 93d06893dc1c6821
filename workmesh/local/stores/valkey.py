"""Valkey on a Unix socket: counters and caches that may vanish, one user and key prefix a service."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import unquote, urlsplit

from workmesh.local.passwords import write_private
from workmesh.local.site import Site

PROBE_SECONDS = 2.0
OPERATOR = "valkey-operator"
SERVICES = ("gateway", "scheduler", "toolhub", "ledger", "agent")
USERS = (OPERATOR, *(f"valkey-{service}" for service in SERVICES))

CONFIGURATION = """\
port 0
unixsocket {socket}
unixsocketperm 700
aclfile {users}
dir {data}
save ""
appendonly no
maxmemory 64mb
maxmemory-policy allkeys-lru
daemonize no
"""


def url(site: Site, user: str) -> str:
    """The URL with the credentials of one of USERS."""
    external = site.external("valkey")
    name = user.removeprefix("valkey-")
    return external or f"unix://{name}:{site.passwords[user]}@{site.valkey_socket}"


def command(site: Site) -> list[str]:
    """The server's command line."""
    return [str(site.binaries["valkey"].path), str(site.profile.config / "valkey.conf")]


def access_list(site: Site) -> str:
    """Valkey's users: each service its own keys and channels, and nothing that touches others'."""
    lines = ["user default off", f"user operator on >{site.passwords[OPERATOR]} ~* &* +@all"]
    for name in SERVICES:
        rights = f"~{name}:* &{name}:* +@all -@admin -@dangerous"
        lines.append(f"user {name} on >{site.passwords[f'valkey-{name}']} {rights}")
    return "\n".join(lines) + "\n"


async def prepare(site: Site) -> None:
    """Write the configuration and the access list."""
    data = site.profile.data / "valkey"
    data.mkdir(exist_ok=True)
    users = site.profile.config / "valkey-users.acl"
    write_private(users, access_list(site))
    text = CONFIGURATION.format(socket=site.valkey_socket, users=users, data=data)
    write_private(site.profile.config / "valkey.conf", text)


async def probe(site: Site) -> str | None:
    """Why the server does not answer PING yet; None when it does."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await _ping(url(site, OPERATOR))
    except (OSError, TimeoutError) as error:
        return f"{type(error).__name__}: {error}"


async def _ping(address: str) -> str | None:
    """AUTH and PING as inline commands (valkey.io, "Protocol spec"); an import of the client costs 0.5 s."""
    parts = urlsplit(address)
    if parts.scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(parts.path)
    else:
        secure = parts.scheme == "rediss" or None
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379, ssl=secure)
    try:
        if parts.password is not None:
            user = unquote(parts.username or "") or "default"
            writer.write(f"AUTH {user} {unquote(parts.password)}\r\n".encode())
            refusal = (await reader.readline()).decode().strip()
            if refusal != "+OK":
                return refusal
        writer.write(b"PING\r\n")
        answer = (await reader.readline()).decode().strip()
        return None if answer == "+PONG" else answer or "closed the connection"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
