from __future__ import annotations

import socket
import urllib.request

import pytest
from prometheus_client.exposition import generate_latest

from workmesh import metrics
from workmesh.batching import BatcherStats


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def exposed() -> str:
    return generate_latest(metrics.REGISTRY).decode()


def test_a_metric_declared_twice_alike_is_one_metric() -> None:
    first = metrics.counter("workmesh_test_twice_total", "Twice.", ("lane",))
    assert metrics.counter("workmesh_test_twice_total", "Twice.", ("lane",)) is first
    first.labels("batch").inc(2)
    assert 'workmesh_test_twice_total{lane="batch"} 2.0' in exposed()


def test_a_metric_declared_differently_is_refused() -> None:
    metrics.gauge("workmesh_test_slots", "Slots.")
    with pytest.raises(ValueError, match="declared before"):
        metrics.gauge("workmesh_test_slots", "Slots.", ("pool",))
    with pytest.raises(ValueError, match="declared before"):
        metrics.histogram("workmesh_test_slots", "Slots.")


@pytest.mark.parametrize(
    "name",
    ["jobs_total", "workmesh_jobs_total", "workmesh_test_jobs_committed", "workmesh_test_Jobs_total", ""],
)
def test_a_name_outside_the_scheme_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="workmesh_<service>_<noun>_<unit>"):
        metrics.gauge(name, "Bad.")


def test_a_counters_name_ends_in_total() -> None:
    with pytest.raises(ValueError, match="_total"):
        metrics.counter("workmesh_test_wait_seconds", "Bad.")


def test_a_batchers_counts_are_read_at_each_scrape_and_the_latest_batcher_counts() -> None:
    stats = [BatcherStats(1, 10, 0, 0, 5, 1)]
    metrics.watch_batcher("test", "create", lambda: BatcherStats(99, 99, 99, 99, 99, 99))
    metrics.watch_batcher("test", "create", lambda: stats[-1])
    metrics.watch_batcher("test", "begin", lambda: BatcherStats(7, 70, 1, 2, 0, 0))
    assert 'workmesh_test_batched_items_total{batcher="create"} 10.0' in exposed()
    stats.append(BatcherStats(2, 30, 0, 0, 0, 0))
    assert 'workmesh_test_batched_items_total{batcher="create"} 30.0' in exposed()
    assert 'workmesh_test_refused_items_total{batcher="begin"} 2.0' in exposed()
    assert 'workmesh_test_batcher_queued_items{batcher="create"} 0.0' in exposed()


def test_the_registry_is_served_until_it_is_closed() -> None:
    metrics.counter("workmesh_test_served_total", "Served.").inc()
    port = free_port()
    close = metrics.serve_metrics(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"workmesh_test_served_total 1.0" in answer.read()
    close()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_port_0_serves_nothing() -> None:
    metrics.serve_metrics(0)()
