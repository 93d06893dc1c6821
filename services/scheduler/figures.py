"""The scheduler's metrics."""

from __future__ import annotations

from workmesh import metrics

_LANE = ("pool", "lane")

OFFERS = metrics.counter("workmesh_scheduler_offers_total", "Offers made to instances.", _LANE)
REDELIVERIES = metrics.counter(
    "workmesh_scheduler_redeliveries_total", "Messages that came for the second time or later.", _LANE
)
LATE = metrics.counter(
    "workmesh_scheduler_late_messages_total", "Messages handed back because no slot was free any more.", _LANE
)
ASIDE = metrics.counter(
    "workmesh_scheduler_aside_messages_total", "Messages put aside because nobody here could run them.", _LANE
)
OUTCOMES = metrics.counter("workmesh_scheduler_outcomes_total", "Offers that are over.", ("outcome",))
EXPIRIES = metrics.counter(
    "workmesh_scheduler_lost_leases_total", "Offers of which nothing was heard for a lease's length."
)
PUBLISHED = metrics.counter("workmesh_scheduler_published_messages_total", "Messages that projection stored.")
REBUILDS = metrics.counter(
    "workmesh_scheduler_rebuilds_total", "Times that the queues were made anew.", ("cause",)
)
REPUBLISHED = metrics.counter(
    "workmesh_scheduler_reconciled_messages_total", "Jobs published again because their message was missing."
)
LAG = metrics.gauge(
    "workmesh_scheduler_projection_lag_seconds", "Age of the newest projected block when it was projected."
)
PROJECTING = metrics.gauge("workmesh_scheduler_projecting_state", "1 while this process projects.")
INFLIGHT = metrics.gauge("workmesh_scheduler_inflight_leases", "Offers that are not over.")
WAITING = metrics.gauge("workmesh_scheduler_waiting_messages", "Messages not yet delivered.", _LANE)
DELIVERED = metrics.gauge(
    "workmesh_scheduler_delivered_messages", "Messages delivered, not acknowledged.", _LANE
)
DELAYED = metrics.gauge("workmesh_scheduler_delayed_messages", "Messages that wait for a time.")
