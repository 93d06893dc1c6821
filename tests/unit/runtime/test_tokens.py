from __future__ import annotations

from typing import Any

import grpc
import pytest
from nacl.signing import SigningKey, VerifyKey

from workmesh.clock import ManualClock, micros
from workmesh.common.v1.token_pb2 import Grant, JobToken, TokenClaims, ToolSet
from workmesh.errors import MeshError
from workmesh.tokens import TokenSigner, TokenVerifier

SEED = bytes(range(32))
PUBLIC = bytes(SigningKey(SEED).verify_key)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def verifier(clock: ManualClock) -> TokenVerifier:
    return TokenVerifier(PUBLIC, clock)


def claims_of(clock: ManualClock, token_id: str = "t1", lease: float = 10.0) -> TokenClaims:
    return TokenClaims(
        token_id=token_id,
        issue_time_micros=micros(clock.time()),
        expire_time_micros=micros(clock.time() + lease),
        tool_sets=[ToolSet(tools=["erp.post_order", "carrier.*"]), ToolSet()],
        grants=[
            Grant(job_id="j1", epoch=3, series=1, client_id="acme", tool_set=0),
            Grant(job_id="j2", epoch=1, series=1, client_id="acme", tool_set=1),
            Grant(job_id="j3", epoch=1, series=1, client_id="acme", tool_set=7),
        ],
    )


def signed(clock: ManualClock, token_id: str = "t1") -> JobToken:
    return TokenSigner(SEED).sign(claims_of(clock, token_id))


def refusal(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(MeshError) as refused:
        call(*arguments)
    return refused.value.code, refused.value.reason


UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "TOOL_NOT_ALLOWED")


def test_a_token_of_the_ledger_yields_its_claims_and_grants(
    clock: ManualClock, verifier: TokenVerifier
) -> None:
    assert verifier.verify(signed(clock)) == claims_of(clock)
    assert verifier.grant("t1", "j1").epoch == 3


@pytest.mark.parametrize("field", ["claims", "signature", "key_id", "token_id"])
def test_a_token_with_anything_changed_is_refused(
    clock: ManualClock, verifier: TokenVerifier, field: str
) -> None:
    token = signed(clock)
    value = getattr(token, field)
    setattr(token, field, value[:-1] + ("x" if isinstance(value, str) else bytes([value[-1] ^ 1])))
    assert refusal(verifier.verify, token) == UNAUTHENTICATED
    assert refusal(verifier.grant, "t1", "j1") == UNAUTHENTICATED


def test_a_changed_token_is_refused_after_the_real_one_was_shown(
    clock: ManualClock, verifier: TokenVerifier
) -> None:
    token = signed(clock)
    verifier.verify(token)
    forged = JobToken()
    forged.CopyFrom(token)
    forged.signature = bytes(64)
    assert refusal(verifier.verify, forged) == UNAUTHENTICATED
    assert verifier.grant("t1", "j1").epoch == 3


def test_a_token_of_another_key_is_refused(clock: ManualClock, verifier: TokenVerifier) -> None:
    assert refusal(verifier.verify, TokenSigner(bytes(32)).sign(claims_of(clock))) == UNAUTHENTICATED


def test_a_malformed_token_is_refused(verifier: TokenVerifier, clock: ManualClock) -> None:
    token = signed(clock)
    assert refusal(verifier.verify, JobToken()) == UNAUTHENTICATED
    token.signature = b"short"
    assert refusal(verifier.verify, token) == UNAUTHENTICATED


def test_a_token_dies_with_its_lease_even_when_it_is_cached(
    clock: ManualClock, verifier: TokenVerifier
) -> None:
    token = signed(clock)
    verifier.verify(token)
    clock.advance(9.999)
    assert verifier.grant("t1", "j1").epoch == 3
    clock.advance(0.001)
    assert refusal(verifier.grant, "t1", "j1") == UNAUTHENTICATED
    assert refusal(verifier.verify, token) == UNAUTHENTICATED


def test_an_allowance_bears_with_the_difference_of_two_clocks(clock: ManualClock) -> None:
    verifier = TokenVerifier(PUBLIC, clock, allowance=1.0)
    verifier.verify(signed(clock))
    clock.advance(10.5)
    assert verifier.grant("t1", "j1").epoch == 3
    clock.advance(0.5)
    assert refusal(verifier.grant, "t1", "j1") == UNAUTHENTICATED


def test_a_job_that_the_token_does_not_name_is_denied(clock: ManualClock, verifier: TokenVerifier) -> None:
    verifier.verify(signed(clock))
    assert refusal(verifier.grant, "t1", "another") == DENIED
    assert refusal(verifier.grant, "t2", "j1") == UNAUTHENTICATED


def test_tools_are_permitted_by_name_or_by_integration(clock: ManualClock, verifier: TokenVerifier) -> None:
    verifier.verify(signed(clock))
    assert verifier.permit("t1", "j1", "erp.post_order").client_id == "acme"
    assert verifier.permit("t1", "j1", "carrier.get_rate").epoch == 3
    assert refusal(verifier.permit, "t1", "j1", "erp.delete_order") == DENIED
    assert refusal(verifier.permit, "t1", "j1", "carriers.get_rate") == DENIED
    assert refusal(verifier.permit, "t1", "j2", "erp.post_order") == DENIED
    assert refusal(verifier.permit, "t1", "j3", "erp.post_order") == DENIED


def test_the_signature_is_checked_once_a_token(
    clock: ManualClock, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = []
    verify = VerifyKey.verify

    def counted(self: VerifyKey, data: bytes, signature: bytes) -> bytes:
        checks.append(signature)
        return verify(self, data, signature)

    monkeypatch.setattr(VerifyKey, "verify", counted)
    token = signed(clock)
    for _ in range(5):
        verifier.verify(token)
        verifier.grant("t1", "j1")
    assert len(checks) == 1


def test_only_so_many_tokens_are_remembered_the_latest_used(clock: ManualClock) -> None:
    verifier = TokenVerifier(PUBLIC, clock, max_cached=2)
    for token_id in ("t1", "t2", "t1", "t3"):
        verifier.verify(signed(clock, token_id))
    assert verifier.grant("t1", "j1").epoch == 3
    assert verifier.grant("t3", "j1").epoch == 3
    assert refusal(verifier.grant, "t2", "j1") == UNAUTHENTICATED
    verifier.forget("t3")
    assert refusal(verifier.grant, "t3", "j1") == UNAUTHENTICATED
