"""Job tokens: one Ed25519 signature of the ledger for all attempts of a batch, verified once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

from google.protobuf.message import DecodeError
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.signing import SigningKey, VerifyKey

from workmesh import errors
from workmesh.clock import Clock, micros
from workmesh.common.v1.token_pb2 import Grant, JobToken, TokenClaims


def key_id(public_key: bytes) -> str:
    """Return the name of an Ed25519 public key: 16 hex digits of the SHA-256 of its 32 raw bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class TokenSigner:
    """Signs what the ledger grants; made from the 32 raw bytes of an Ed25519 private key."""

    def __init__(self, private_key: bytes) -> None:
        self._key = SigningKey(private_key)
        self._key_id = key_id(bytes(self._key.verify_key))

    def sign(self, claims: TokenClaims) -> JobToken:
        """Return the token that carries the claims."""
        data = claims.SerializeToString()
        return JobToken(
            token_id=claims.token_id,
            claims=data,
            signature=self._key.sign(data).signature,
            key_id=self._key_id,
        )


@dataclass(frozen=True, slots=True)
class _Verified:
    claims: TokenClaims
    signature: bytes
    grants: dict[str, Grant]
    tools: tuple[frozenset[str], ...]


class TokenVerifier:
    """Verifies each token once and remembers it until it expires; at most `max_cached` of them.

    A token is good until its expiry, compared with this process's clock less an `allowance` (seconds) for the
    difference to the clock of the database that issued it.
    """

    def __init__(
        self, public_key: bytes, clock: Clock, *, allowance: float = 0.0, max_cached: int = 20_000
    ) -> None:
        self._key = VerifyKey(public_key)
        self._key_id = key_id(public_key)
        self._clock = clock
        self._allowance = allowance
        self._max_cached = max_cached
        self._cache: OrderedDict[str, _Verified] = OrderedDict()

    def verify(self, token: JobToken) -> TokenClaims:
        """Return the claims of a token; UNAUTHENTICATED unless it is signed by the ledger and unexpired."""
        known = self._cache.get(token.token_id)
        if known is None or known.signature != token.signature:
            known = self._check(token)
        self._refuse_expired(known.claims)
        self._cache[token.token_id] = known
        self._cache.move_to_end(token.token_id)
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)
        return known.claims

    def grant(self, token_id: str, job_id: str) -> Grant:
        """Return the right to a job under a token that was verified before.

        UNAUTHENTICATED when the token is unknown here or has expired, PERMISSION_DENIED when it does not
        name the job.
        """
        known = self._verified(token_id)
        grant = known.grants.get(job_id)
        if grant is None:
            raise errors.permission_denied("TOOL_NOT_ALLOWED", "the token grants no such job", job_id=job_id)
        return grant

    def permit(self, token_id: str, job_id: str, tool: str) -> Grant:
        """Return the right to a job, provided that it covers a tool (`integration.operation`).

        Raises as `grant` does, and PERMISSION_DENIED TOOL_NOT_ALLOWED.
        """
        grant = self.grant(token_id, job_id)
        tools = self._verified(token_id).tools
        allowed = tools[grant.tool_set] if 0 <= grant.tool_set < len(tools) else frozenset[str]()
        if tool not in allowed and f"{tool.partition('.')[0]}.*" not in allowed:
            raise errors.permission_denied(
                "TOOL_NOT_ALLOWED", f"the agent may not call {tool!r}", tool=tool, job_id=job_id
            )
        return grant

    def forget(self, token_id: str) -> None:
        """Drop a token that is no longer needed."""
        self._cache.pop(token_id, None)

    def _verified(self, token_id: str) -> _Verified:
        known = self._cache.get(token_id)
        if known is None:
            raise errors.unauthenticated("the token has not been shown here")
        try:
            self._refuse_expired(known.claims)
        except errors.MeshError:
            self.forget(token_id)
            raise
        return known

    def _refuse_expired(self, claims: TokenClaims) -> None:
        if claims.expire_time_micros <= micros(self._clock.time() - self._allowance):
            raise errors.unauthenticated("the token has expired")

    def _check(self, token: JobToken) -> _Verified:
        if token.key_id != self._key_id:
            raise errors.unauthenticated("the token is signed with an unknown key")
        try:
            self._key.verify(token.claims, token.signature)
            claims = TokenClaims.FromString(token.claims)
        except (BadSignatureError, CryptoError, ValueError, DecodeError):
            raise errors.unauthenticated("the token is not signed by the ledger") from None
        if claims.token_id != token.token_id:
            raise errors.unauthenticated("the token's id is not the one that was signed")
        return _Verified(
            claims,
            token.signature,
            {grant.job_id: grant for grant in claims.grants},
            tuple(frozenset(each.tools) for each in claims.tool_sets),
        )
