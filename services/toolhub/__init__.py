"""toolhub: every call to an external system."""

from __future__ import annotations
