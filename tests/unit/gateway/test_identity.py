"""Who calls, as Envoy says it."""

from __future__ import annotations

import base64

import pytest

from services.gateway.identity import Caller, read_roles
from workmesh.errors import MeshError


@pytest.mark.parametrize(
    ("header", "roles"),
    [
        ("", set()),
        ("auditor", {"auditor"}),
        ("auditor operator", {"auditor", "operator"}),
        ("auditor,operator", {"auditor", "operator"}),
        (base64.b64encode(b'["auditor","operator"]').decode(), {"auditor", "operator"}),
        (base64.b64encode(b"[]").decode().rstrip("="), set()),
        (base64.urlsafe_b64encode(b'["admin"]').decode().rstrip("="), {"admin"}),
    ],
)
def test_roles_are_read_as_words_or_as_an_encoded_list(header: str, roles: set[str]) -> None:
    assert read_roles(header) == roles


def test_roles_that_cannot_be_read_give_no_rights() -> None:
    with pytest.raises(MeshError, match="UNAUTHENTICATED"):
        read_roles("W!!!")


def test_a_caller_needs_one_of_the_roles() -> None:
    Caller("c", frozenset({"auditor"})).require("auditor", "admin")
    with pytest.raises(MeshError, match="ROLE_MISSING"):
        Caller("c", frozenset({"auditor"})).require("operator")
