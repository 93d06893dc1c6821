"""The session's mesh for the acceptance tests, and a fresh client for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.acceptance.client import MeshClient
from workmesh.local.stack import Stack

Connect = Callable[[str], MeshClient]


@pytest.fixture
def mesh(stack: Stack) -> Stack:
    """The mesh, whole, behind Envoy."""
    return stack


@pytest.fixture
def connect(mesh: Stack) -> Connect:
    """Makes clients by name."""
    return lambda name: MeshClient(mesh.edge_address, mesh.token(name))


@pytest.fixture
async def client(connect: Connect, client_name: str) -> AsyncIterator[MeshClient]:
    """A client that nobody else is."""
    async with connect(client_name) as fresh:
        yield fresh
