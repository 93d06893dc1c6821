"""What a handler raises, and what is raised to it.

    HandlerError
    ├── BusinessError        the work cannot be done as asked: the job is FAILED
    ├── RetryableError       a later attempt may succeed: the retry policy decides
    ├── NonRetryableError    no attempt can succeed: the job is DEAD_LETTERED
    └── ToolError            a tool call failed: transient ones are retried, others dead-letter the job

Any other exception means another attempt. AttemptLost and AttemptAborted end an attempt from outside; they
are no Exception, so that a handler's `except Exception` does not hold them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workmesh.errors import MeshError

if TYPE_CHECKING:
    from workmesh.sdk.outcome import Failure

MOST_CODE_LENGTH = 64


class HandlerError(Exception):
    """Base of what handlers raise on purpose."""


class BusinessError(HandlerError):
    """The work cannot be done as asked.

    `code` is the handler's own, for machines: 1 to 64 printable characters.
    """

    def __init__(self, code: str, message: str) -> None:
        if not code or len(code) > MOST_CODE_LENGTH or not code.isprintable():
            raise ValueError(f"a business error's code has 1 to {MOST_CODE_LENGTH} printable characters")
        super().__init__(message)
        self.code = code
        self.message = message


class RetryableError(HandlerError):
    """A later attempt may succeed, not before `retry_after` seconds where that is given."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NonRetryableError(HandlerError):
    """No attempt can succeed, unless code or configuration change."""


class ToolError(HandlerError):
    """A tool call failed, as toolhub said.

    `reason` is a value of common.v1.ErrorReason without its prefix. `transient` tells that the same call may
    succeed later; `retry_after` (seconds) when.
    """

    def __init__(self, tool: str, step: str, error: MeshError, *, transient: bool) -> None:
        super().__init__(f"{tool}: {error.reason}: {error.message}")
        self.tool = tool
        self.step = step
        self.error = error
        self.transient = transient

    @property
    def reason(self) -> str:
        return self.error.reason

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.error.metadata

    @property
    def retry_after(self) -> float | None:
        return self.error.retry_after


class AttemptLost(BaseException):
    """The attempt's right to go on has ended: its lease is over or another grant superseded it."""


class AttemptAborted(BaseException):
    """The engine itself found that the attempt must end, and how."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure
