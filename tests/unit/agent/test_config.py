"""Settings of an agent instance."""

from __future__ import annotations

import pytest

from services.agent.config import AgentConfig
from workmesh.config import ConfigError, load


def test_settings_come_from_the_environment() -> None:
    config = load(
        AgentConfig,
        "agent",
        {
            "WORKMESH_HANDLERS": "freight.bookings, freight.documents",
            "WORKMESH_AGENT_POOLS": "ocean,air",
            "WORKMESH_AGENT_SLOTS": "64",
            "WORKMESH_LEASE_SECONDS": "3",
        },
    )
    assert config.handlers == ("freight.bookings", "freight.documents")
    assert (config.pools, config.slots, config.lease_seconds) == (("ocean", "air"), 64, 3.0)


def test_an_instance_without_handlers_is_refused() -> None:
    with pytest.raises(ConfigError, match="WORKMESH_HANDLERS"):
        load(AgentConfig, "agent", {})
