"""Channels between the services of the mesh."""

from __future__ import annotations

import ipaddress
import json
from typing import Final

import grpc

MAX_MESSAGE_BYTES: Final = 4 << 20

# Only UNAVAILABLE is repeated: the call may not have been made at all, and every write of the mesh is
# idempotent. The throttle is the retry budget: a retry costs ten tokens' worth of successes, and at half
# the tokens retries stop.
_SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
)


_OPTIONS: Final[list[tuple[str, str | int]]] = [
    ("grpc.service_config", _SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    ("grpc.use_local_subchannel_pool", 1),
    # The servers have limits both ways.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted peer is found again within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


# Without the filters that look into messages: they abort the process when a stream breaks between two writes
# (grpc/grpc#40283). Calls are not repeated either, which a stream that has begun never is.
_STREAM_OPTIONS: Final = [*_OPTIONS, ("grpc.minimal_stack", 1), ("grpc.per_message_compression", 0)]


def open_channel(addresses: str) -> grpc.aio.Channel:
    """Return a channel to "host:port" or, round robin, to "host:port,host:port".

    Every call gets its `timeout=` from the caller, save long-lived streams. A list holds IP addresses or
    `localhost`, a single host may be a DNS name with several addresses. Raises ValueError for anything
    else.
    """
    return grpc.aio.insecure_channel(target_of(addresses), options=_OPTIONS)


def open_stream_channel(addresses: str) -> grpc.aio.Channel:
    """Return a channel for calls whose requests are streams; none of its calls is repeated by itself."""
    return grpc.aio.insecure_channel(target_of(addresses), options=_STREAM_OPTIONS)


def target_of(addresses: str) -> str:
    """Return the gRPC target of an address list; ValueError when it is none."""
    hosts = [_split(each.strip()) for each in addresses.split(",") if each.strip()]
    if not hosts:
        raise ValueError("an address list names at least one host:port")
    families = {_family(host) for host, _ in hosts}
    if families == {"dns"} and len(hosts) == 1:
        return f"dns:///{hosts[0][0]}:{hosts[0][1]}"
    if families == {"ipv4"}:
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in hosts)
    if families == {"ipv6"}:
        return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in hosts)
    raise ValueError(f"{addresses!r}: a list of several addresses holds IP addresses of one family")


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return ("127.0.0.1" if host == "localhost" else host, int(port))


def _family(host: str) -> str:
    try:
        return f"ipv{ipaddress.ip_address(host).version}"
    except ValueError:
        return "dns"
