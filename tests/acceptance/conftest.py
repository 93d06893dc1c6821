"""One mesh for all acceptance tests of a session, and a fresh client for each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.client import MeshClient
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack

OPTIONS = StackOptions(
    agents=2,
    handlers=("tests.acceptance.handlers",),
    integrations=Path(__file__).parent / "integrations.yaml",
)

Connect = Callable[[str], MeshClient]


@pytest.fixture(scope="session")
def mesh() -> Iterator[Stack]:
    """The mesh, whole, behind Envoy."""
    stack = Stack(options=OPTIONS)
    asyncio.run(stack.start())
    yield stack
    asyncio.run(stack.stop())


@pytest.fixture
def connect(mesh: Stack) -> Connect:
    """Makes clients by name."""
    return lambda name: MeshClient(mesh.edge_address, mesh.token(name))


@pytest.fixture
def client_name() -> str:
    """A name that nobody else has."""
    return f"client-{uuid.uuid4().hex[:12]}"


@pytest.fixture
async def client(connect: Connect, client_name: str) -> AsyncIterator[MeshClient]:
    """A client that nobody else is."""
    async with connect(client_name) as fresh:
        yield fresh
