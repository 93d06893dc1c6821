"""How an attempt ends badly: from what was raised to what the ledger is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import grpc

from workmesh.errors import MeshError, aborted, failed_precondition
from workmesh.ledger.v1.event_pb2 import StepKind
from workmesh.ledger.v1.job_pb2 import JournalStep
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk.errors import AttemptAborted, BusinessError, NonRetryableError, RetryableError, ToolError

MOST_MESSAGE_LENGTH: Final = 512

RETRY: Final = FailAttempt.VERDICT_RETRY
FAIL: Final = FailAttempt.VERDICT_FAIL
DEAD_LETTER: Final = FailAttempt.VERDICT_DEAD_LETTER
RETURN: Final = FailAttempt.VERDICT_RETURN
CANCEL: Final = FailAttempt.VERDICT_CANCEL

_FINAL_CODES: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_WAIT_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """A bad end: what it means for the job, why, the least delay (seconds), the steps to journal with it."""

    verdict: FailAttempt.Verdict.ValueType
    error: MeshError
    retry_after: float | None = None
    steps: tuple[JournalStep, ...] = ()

    def with_steps(self, steps: list[JournalStep]) -> Failure:
        """Return the same failure with steps."""
        return replace(self, steps=tuple(steps))


def is_transient(error: MeshError) -> bool:
    """Tell whether the same tool call may succeed later.

    An effect of unknown outcome is not tried again by waiting, unless toolhub says when it will be known.
    """
    if error.reason == "EFFECT_UNSETTLED":
        return error.retry_after is not None
    if error.reason == "INTEGRATION_REFUSED":
        return error.code in _WAIT_CODES
    return error.code not in _FINAL_CODES


def judge(error: BaseException) -> Failure:
    """Return the failure that an exception out of a handler means."""
    match error:
        case AttemptAborted():
            return error.failure
        case BusinessError():
            cause = failed_precondition("BUSINESS_FAILURE", bounded(error.message), failure=error.code)
            return Failure(FAIL, cause)
        case ToolError(transient=True):
            return Failure(RETRY, _of_tool(error), error.retry_after)
        case ToolError():
            return Failure(DEAD_LETTER, _of_tool(error))
        case NonRetryableError():
            return Failure(DEAD_LETTER, handler_failed(error))
        case RetryableError():
            return Failure(RETRY, handler_failed(error), error.retry_after)
        case MeshError():
            return Failure(RETRY if is_transient(error) else DEAD_LETTER, error, error.retry_after)
        case _:
            return Failure(RETRY, handler_failed(error))


def handler_failed(error: BaseException) -> MeshError:
    """Return what is told about an exception of the handler: its type and message, never its stack."""
    return MeshError(
        grpc.StatusCode.UNKNOWN,
        "HANDLER_FAILED",
        bounded(str(error) or type(error).__name__),
        metadata={"exception": type(error).__name__},
    )


def replay_mismatch(
    step: JournalStep, kind: StepKind.ValueType, name: str, arguments_digest: bytes
) -> Failure:
    """Return the failure of a program that took another way than its journal."""
    recorded = f"{_kind_name(step.kind)} {step.name!r}"
    found = f"{_kind_name(kind)} {name!r}"
    if recorded == found:
        recorded, found = f"{recorded} with other arguments", f"these (digest {arguments_digest.hex()[:16]})"
    error = failed_precondition(
        "REPLAY_MISMATCH",
        bounded(f"step {step.step} was {recorded} when it was journaled and is {found} now"),
        step=step.step,
        recorded_kind=_kind_name(step.kind),
        recorded_name=step.name,
        recorded_arguments_digest=step.arguments_digest.hex(),
        found_kind=_kind_name(kind),
        found_name=name,
        found_arguments_digest=arguments_digest.hex(),
    )
    return Failure(DEAD_LETTER, error)


def state_conflict(collection: str, key: str, *, may_retry: bool) -> Failure:
    """Return the failure of a plain write over a document that changed since it was read."""
    error = aborted(
        "STATE_CONFLICT",
        bounded(f"document {collection}/{key} changed after the attempt read it"),
        collection=collection,
        key=key,
    )
    return Failure(RETRY if may_retry else FAIL, error)


def bounded(text: str) -> str:
    """Return the text as it may be stored: at most 512 characters, valid UTF-8 and without U+0000."""
    clean = text[: MOST_MESSAGE_LENGTH + 1].encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
    return clean if len(clean) <= MOST_MESSAGE_LENGTH else clean[: MOST_MESSAGE_LENGTH - 1] + "…"


def _of_tool(error: ToolError) -> MeshError:
    copy = error.error.copy()
    copy.message = bounded(copy.message)
    copy.metadata = {**copy.metadata, "tool": error.tool, "step": error.step}
    return copy


def _kind_name(kind: StepKind.ValueType) -> str:
    return StepKind.Name(kind).removeprefix("STEP_KIND_")
