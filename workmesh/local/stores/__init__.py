"""The stores of the local stack: how each is configured, started and asked whether it is ready."""

from __future__ import annotations
