from __future__ import annotations

from pathlib import Path

import examples.freight
from examples.freight.parties import DENIED
from services.toolhub.integrations import Effect, Integration
from services.toolhub.reading import load_integrations
from workmesh.sdk.registry import Registry

INTEGRATIONS = Path(examples.freight.__file__).with_name("integrations.yaml")


def integrations() -> dict[str, Integration]:
    return load_integrations(INTEGRATIONS, {"FREIGHT_SANDBOX_URL": "http://127.0.0.1:9000"})


def test_toolhub_reads_the_integrations() -> None:
    found = integrations()
    assert sorted(found) == ["carrier-a", "carrier-b", "customs", "erp"]
    assert found["carrier-b"].address == "http://127.0.0.1:9000/carrier-b"
    effects = {name: operation.effect for name, operation in found["erp"].operations.items()}
    assert effects == {
        "post_order": Effect.IDEMPOTENT,
        "get_order": Effect.READ,
        "post_document": Effect.IDEMPOTENT,
        "get_posting": Effect.READ,
    }


def test_the_agents_are_defined_and_name_only_tools_that_exist() -> None:
    definitions = Registry.load(["examples.freight.agents"]).definitions
    assert {name: definition.lane for name, definition in definitions.items()} == {
        "booking": "critical",
        "document": "batch",
    }
    found = integrations()
    for definition in definitions.values():
        for tool in definition.tools:
            integration, _, operation = tool.partition(".")
            assert operation == "*" or operation in found[integration].operations
        assert set(definition.requires) <= set(found)


def test_denied_parties_are_spelled_as_documents_spell_them() -> None:
    assert all(name == name.upper() for name in DENIED)
