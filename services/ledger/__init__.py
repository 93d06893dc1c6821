"""The ledger: jobs, their history and its proof; the only service that speaks to PostgreSQL."""

from __future__ import annotations
