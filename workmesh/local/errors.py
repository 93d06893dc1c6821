"""What can go wrong with a local stack.

StackError
├── PreflightError      a binary is missing or too old; says the fix
├── AlreadyRunningError another runner holds the profile
└── StartError          a service did not become ready; carries the end of its log
"""

from __future__ import annotations


class StackError(Exception):
    """A local stack cannot do what was asked."""


class PreflightError(StackError):
    """Something this machine lacks; the message names it and the fix."""


class AlreadyRunningError(StackError):
    """The profile is in use by a live runner."""


class StartError(StackError):
    """A service did not become ready in time or kept dying."""
