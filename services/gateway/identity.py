"""Who calls: the identity that Envoy verified and wrote into metadata."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import grpc
import orjson

from workmesh import errors
from workmesh.ids import is_name

CLIENT_KEY: Final = "x-workmesh-client"
ROLES_KEY: Final = "x-workmesh-roles"

# Base64 of `[`; names of roles are lowercase, so no role begins so.
_ENCODED_LIST: Final = "W"


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified client and the roles its token carries."""

    client_id: str
    roles: frozenset[str]
    traceparent: str = ""

    def require(self, *roles: str) -> None:
        """Raise PERMISSION_DENIED ROLE_MISSING unless the caller has one of the roles."""
        if self.roles.isdisjoint(roles):
            needed = " or ".join(roles)
            raise errors.permission_denied(
                "ROLE_MISSING", f"the call needs the role {needed}", roles=",".join(roles)
            )


def identify(context: grpc.aio.ServicerContext[Any, Any]) -> Caller:
    """Return the caller of an RPC; UNAUTHENTICATED without a verified client."""
    client_id = traceparent = ""
    roles: frozenset[str] = frozenset()
    for key, value in context.invocation_metadata() or ():
        if key == CLIENT_KEY:
            client_id = _text(value)
        elif key == ROLES_KEY:
            roles = read_roles(_text(value))
        elif key == "traceparent":
            traceparent = _text(value)
    if not is_name(client_id):
        raise errors.unauthenticated("the call carries no verified client")
    return Caller(client_id, roles, traceparent)


def read_roles(text: str) -> frozenset[str]:
    """Read the roles header: words, or what Envoy makes of a claim that is a list: its JSON in base64."""
    if text.startswith(_ENCODED_LIST):
        try:
            listed = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_"))
        except (binascii.Error, orjson.JSONDecodeError):
            raise errors.unauthenticated("the roles of the call cannot be read") from None
        return frozenset(role for role in listed if isinstance(role, str))
    return frozenset(text.replace(",", " ").split())


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("ascii", "replace")
