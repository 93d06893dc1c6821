"""What toolhub counts: calls, their time, retries, and what is under way at each integration."""

from __future__ import annotations

from typing import Final

from workmesh import metrics

_CALLS: Final = metrics.counter(
    "workmesh_toolhub_tool_calls_total",
    "Tool calls ended, by outcome: ok, or the error's reason.",
    ("integration", "operation", "outcome"),
)
_SECONDS: Final = metrics.histogram(
    "workmesh_toolhub_tool_call_seconds",
    "Time from a tool call's arrival to its end.",
    ("integration", "operation"),
)
_RETRIES: Final = metrics.counter(
    "workmesh_toolhub_retries_total", "Requests sent again.", ("integration", "operation")
)
RUNNING: Final = metrics.gauge(
    "workmesh_toolhub_running_calls", "Calls under way, by integration.", ("integration",)
)
WAITING: Final = metrics.gauge(
    "workmesh_toolhub_waiting_calls", "Calls that wait for a place in the bulkhead.", ("integration",)
)

_OK = "ok"
UNKNOWN: Final = "unknown"
"""Label of calls that name no tool: what callers make up must not become label values."""


class Meter:
    """Counts the calls of one operation."""

    __slots__ = ("_labels", "_ok", "_retries", "_seconds")

    def __init__(self, integration: str, operation: str) -> None:
        self._labels = (integration, operation)
        self._ok = _CALLS.labels(integration, operation, _OK)
        self._seconds = _SECONDS.labels(integration, operation)
        self._retries = _RETRIES.labels(integration, operation)

    def succeeded(self, seconds: float, count: int = 1) -> None:
        """Count calls that succeeded, and the time of one of them."""
        self._ok.inc(count)
        self._seconds.observe(seconds)

    def failed(self, reason: str, seconds: float) -> None:
        """Count a call that failed for a reason of common.v1.ErrorReason."""
        _CALLS.labels(*self._labels, reason.lower()).inc()
        self._seconds.observe(seconds)

    def retried(self) -> None:
        """Count a request that is sent again."""
        self._retries.inc()


def refused(reason: str) -> None:
    """Count a call that was refused before it was known which operation it means."""
    _CALLS.labels(UNKNOWN, UNKNOWN, reason.lower()).inc()
