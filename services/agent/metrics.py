"""What an instance measures."""

from __future__ import annotations

from typing import Final

from workmesh import metrics

ATTEMPTS: Final = metrics.counter(
    "workmesh_agent_attempts_total", "Attempts ended, by agent and by how.", ("agent", "outcome")
)
ATTEMPT_SECONDS: Final = metrics.histogram(
    "workmesh_agent_attempt_seconds", "Time from grant to end of an attempt.", ("agent",)
)
REFUSALS: Final = metrics.counter(
    "workmesh_agent_refused_offers_total", "Offers that did not become attempts, by reason.", ("reason",)
)
RUNNING: Final = metrics.gauge("workmesh_agent_running_attempts", "Attempts that run now.")
SLOTS: Final = metrics.gauge("workmesh_agent_configured_slots", "Attempts that may run at one time.")
REPLAYED: Final = metrics.counter(
    "workmesh_agent_replayed_attempts_total", "Attempts that began with a journal."
)
STREAMS_LOST: Final = metrics.counter(
    "workmesh_agent_lost_streams_total", "Streams to other services that ended.", ("peer",)
)


class Meter:
    """Counts the attempts of one agent; its series are looked up once."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._seconds = ATTEMPT_SECONDS.labels(agent)
        self._outcomes: dict[str, metrics.Counter] = {}

    def ended(self, outcome: str, seconds: float) -> None:
        """Count an attempt that ended."""
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = ATTEMPTS.labels(self._agent, outcome)
        counter.inc()
        self._seconds.observe(seconds)
