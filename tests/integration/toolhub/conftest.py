"""What the tests of toolhub share: an external system and a scripted ledger, both real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.toolhub.external_system import ExternalSystem
from tests.integration.toolhub.scripted_ledger import ScriptedLedger


@pytest.fixture
async def system() -> AsyncIterator[ExternalSystem]:
    external = ExternalSystem()
    await external.start()
    yield external
    await external.stop()


@pytest.fixture
async def ledger() -> AsyncIterator[ScriptedLedger]:
    async with ScriptedLedger().serving() as scripted:
        yield scripted
