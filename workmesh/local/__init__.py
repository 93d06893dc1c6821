"""The whole mesh on one machine: real servers, supervised, from one table of services."""

from __future__ import annotations

from workmesh.local.errors import AlreadyRunningError, PreflightError, StackError, StartError
from workmesh.local.events import Happening, StackEvent
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack

__all__ = [
    "AlreadyRunningError",
    "Happening",
    "PreflightError",
    "Stack",
    "StackError",
    "StackEvent",
    "StackOptions",
    "StartError",
]
