"""Fixtures for all tests."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.stack import MESH, running
from workmesh.local import Stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The whole mesh behind Envoy, one a session, started when the first test asks for it.

    Tests share it: each is a client of its own, and none leaves anything stopped.
    """
    with running(MESH) as mesh:
        yield mesh


@pytest.fixture
def client_name() -> str:
    """A client that no other test is."""
    return f"client-{uuid.uuid4().hex[:12]}"
