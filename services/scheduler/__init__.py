"""The scheduler: lanes, delays and offers. JetStream is its index of the ledger and may be lost."""

from __future__ import annotations
