"""Pages of rows with bodies, cut by bytes as well as by count so that each fits in a message."""

from __future__ import annotations

from typing import Final, NamedTuple

from services.ledger.read_pool import Row

MAX_PAGE_BYTES: Final = 3 << 20
"""A page ends with the row that reaches this; one body more (at most 1 MiB) still fits in a message."""


class BytePage(NamedTuple):
    """Rows of a page, and whether there are more."""

    rows: list[Row]
    more: bool


def cut_page(rows: list[Row], limit: int) -> BytePage:
    """Return the page of rows asked for with one more than the limit; their last column counts them uncut."""
    page = rows[:limit]
    return BytePage(page, bool(rows) and rows[0][-1] > len(page))
