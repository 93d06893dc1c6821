"""The write side's metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from services.ledger.items import Created, Granted, Item, Outcome
from workmesh.errors import MeshError
from workmesh.metrics import counter, gauge, histogram

JOBS_CREATED: Final = counter("workmesh_ledger_created_jobs_total", "Jobs accepted, repeats aside.")
ATTEMPTS_BEGUN: Final = counter("workmesh_ledger_begun_attempts_total", "Attempts granted, repeats included.")
ITEMS_WRITTEN: Final = counter("workmesh_ledger_written_items_total", "Items that were answered.", ("kind",))
ITEMS_FAILED: Final = counter(
    "workmesh_ledger_failed_items_total", "Items that were answered with an error.", ("reason",)
)
BATCH_ITEMS: Final = histogram(
    "workmesh_ledger_batch_items",
    "Items written by one transaction.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
TRANSACTION_SECONDS: Final = histogram(
    "workmesh_ledger_transaction_seconds", "From the beginning of a transaction to its commit."
)
OWNED_CHAINS: Final = gauge("workmesh_ledger_owned_chains_info", "Chains that this process writes.")


def count_batch(items: Sequence[Item], results: Sequence[Outcome], seconds: float) -> None:
    """Count what one transaction did."""
    TRANSACTION_SECONDS.observe(seconds)
    BATCH_ITEMS.observe(len(items))
    for kind, count in Counter(map(type, items)).items():
        ITEMS_WRITTEN.labels(kind.__name__.lower()).inc(count)
    outcomes = Counter(map(type, results))
    if outcomes[Granted]:
        ATTEMPTS_BEGUN.inc(outcomes[Granted])
    if outcomes[Created]:
        JOBS_CREATED.inc(sum(isinstance(each, Created) and not each.existing for each in results))
    if outcomes[MeshError]:
        for each in results:
            if isinstance(each, MeshError):
                ITEMS_FAILED.labels(each.reason).inc()
