"""The one registry of metrics: every name is checked, declared once and served from here.

Names read `workmesh_<service>_<noun>_<unit>`; counters end in `_total`. Labels hold few distinct values:
never ids.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from workmesh.batching import BatcherStats

__all__ = ["Counter", "Gauge", "Histogram", "counter", "gauge", "histogram", "serve_metrics", "watch_batcher"]

REGISTRY: Final = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Buckets of durations unless told otherwise."""

_NAME = re.compile(
    r"workmesh_(gateway|scheduler|agent|toolhub|ledger|local|test)_([a-z][a-z0-9_]*_)?"
    r"(total|seconds|bytes|items|jobs|attempts|leases|slots|calls|streams|messages|events|blocks"
    r"|instances|connections|circuits|permits|ratio|state|info)"
)

Declared = TypeVar("Declared", Counter, Gauge, Histogram)
_declared: dict[str, tuple[tuple[object, ...], Counter | Gauge | Histogram]] = {}


def counter(name: str, help: str, labels: Sequence[str] = ()) -> Counter:
    """Declare a counter, or return the one declared before; ValueError for a bad or conflicting name."""
    if not name.endswith("_total"):
        raise ValueError(f"{name!r}: a counter's name ends in _total")
    return _declare(Counter, name, help, labels, lambda: Counter(name, help, labels, registry=REGISTRY))


def gauge(name: str, help: str, labels: Sequence[str] = ()) -> Gauge:
    """Declare a gauge, or return the one declared before; ValueError for a bad or conflicting name."""
    return _declare(Gauge, name, help, labels, lambda: Gauge(name, help, labels, registry=REGISTRY))


def histogram(
    name: str, help: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
) -> Histogram:
    """Declare a histogram, or return the one declared before; ValueError for a bad or conflicting name."""
    return _declare(
        Histogram,
        name,
        help,
        labels,
        lambda: Histogram(name, help, labels, buckets=buckets, registry=REGISTRY),
    )


def watch_batcher(service: str, name: str, stats: Callable[[], BatcherStats]) -> None:
    """Export a batcher's counts at each scrape; a later batcher of the same name replaces it."""
    key = f"workmesh_{service}_batches_total"
    if key not in _batchers:
        _check(key)
        _batchers[key] = {}
        REGISTRY.register(_BatcherCollector(f"workmesh_{service}", _batchers[key]))
    _batchers[key][name] = stats


def serve_metrics(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serve the registry by HTTP at /metrics and return the function that ends it; port 0 serves nothing."""
    if not port:
        return lambda: None
    server, thread = start_http_server(port, addr=host, registry=REGISTRY)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


def _check(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not workmesh_<service>_<noun>_<unit>")


def _declare(
    kind: type[Declared], name: str, help: str, labels: Sequence[str], make: Callable[[], Declared]
) -> Declared:
    _check(name)
    shape = (kind, help, tuple(labels))
    known = _declared.get(name)
    if known is None:
        made = make()
        _declared[name] = (shape, made)
        return made
    if known[0] != shape or not isinstance(known[1], kind):
        raise ValueError(f"{name!r} was declared before with another kind, help or labels")
    return known[1]


_batchers: dict[str, dict[str, Callable[[], BatcherStats]]] = {}


class _BatcherCollector(Collector):
    def __init__(self, prefix: str, batchers: dict[str, Callable[[], BatcherStats]]) -> None:
        self._prefix = prefix
        self._batchers = batchers

    def collect(self) -> Iterable[Metric]:
        stats = {name: read() for name, read in self._batchers.items()}
        yield from self._counters(stats)
        queued = GaugeMetricFamily(
            f"{self._prefix}_batcher_queued_items", "Items that wait for a batch.", labels=["batcher"]
        )
        for name, each in stats.items():
            queued.add_metric([name], each.queued_items)
        yield queued

    def _counters(self, stats: dict[str, BatcherStats]) -> Iterator[Metric]:
        counts: tuple[tuple[str, str, Callable[[BatcherStats], int]], ...] = (
            ("batches", "Batches flushed.", lambda each: each.batches),
            ("batched_items", "Items flushed.", lambda each: each.items),
            ("failed_batches", "Batches whose flush raised.", lambda each: each.failed_batches),
            ("refused_items", "Items refused because the queue was full.", lambda each: each.refused_items),
        )
        for noun, text, read in counts:
            family = CounterMetricFamily(f"{self._prefix}_{noun}", text, labels=["batcher"])
            for name, each in stats.items():
                family.add_metric([name], read(each))
            yield family
