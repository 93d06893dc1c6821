"""What became of a request, and what that means for the call."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from services.toolhub.integrations import Integration, Operation, Schema
from services.toolhub.secret import Secret
from workmesh import errors, payload

MAX_RESULT_BYTES: Final = payload.MAX_BYTES
_EXCERPT_CHARACTERS: Final = 300
_REQUEST_TIMEOUT: Final = 408
_TOO_EARLY: Final = 425
_TOO_MANY: Final = 429


@dataclass(frozen=True, slots=True)
class Answer:
    """What an external system answered. `cut`: the body was longer than what is read of one."""

    status: int
    body: bytes
    cut: bool = False
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came. `sent`: part of the request may have left this process. `what` is for people."""

    what: str
    sent: bool
    timed_out: bool = False


class Reach(Enum):
    """How far a failed request got, as far as the outside world's state is concerned."""

    NOT_SENT = "not sent"
    DECLINED = "declined"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Success:
    """The call's result as JSON bytes."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a try failed. `transient`: another may succeed. `retry_after`: seconds the system asked for."""

    reach: Reach
    message: str
    transient: bool
    http_status: int = 0
    retry_after: float | None = None
    timed_out: bool = False


def judge(reply: Answer | Lost, operation: Operation, secret: Secret | None) -> Success | Failure:
    """Return what a reply means. No secret is left in either outcome."""
    if isinstance(reply, Lost):
        reach = Reach.UNKNOWN if reply.sent else Reach.NOT_SENT
        return Failure(reach, reply.what, transient=True, timed_out=reply.timed_out)
    if 200 <= reply.status < 300:
        return _judge_success(reply, operation, secret)
    status = reply.status
    message = f"answered HTTP {status}{_excerpt(reply, secret)}"
    if 300 <= status < 400:
        # It may redirect after having done what was asked (303), so what it did is not known.
        return Failure(
            Reach.UNKNOWN, f"answered HTTP {status}, and redirects are not followed", False, status
        )
    if status in {_TOO_EARLY, _TOO_MANY}:
        return Failure(Reach.DECLINED, message, True, status, reply.retry_after)
    if status == _REQUEST_TIMEOUT or status >= 500:
        return Failure(Reach.UNKNOWN, message, True, status, reply.retry_after)
    return Failure(Reach.DECLINED, message, False, status)


def _judge_success(answer: Answer, operation: Operation, secret: Secret | None) -> Success | Failure:
    if answer.cut:
        return _unreadable(answer, f"answered more than {MAX_RESULT_BYTES} bytes")
    if not answer.body.strip():
        return Success(b"null")
    try:
        value = payload.load_json(answer.body, field="result")
        result = payload.dump_json(value, field="result")
    except errors.MeshError as error:
        return _unreadable(answer, f"answered HTTP {answer.status} with a body that {_why(error)}")
    violations = _violations(operation.output, value)
    if violations:
        listed = "; ".join(f"{each.field}: {each.description}" for each in violations[:3])
        excerpt = secret.redact(listed) if secret is not None else listed
        return _unreadable(answer, f"answered what does not match the output schema: {excerpt}")
    return Success(secret.redact_json(result) if secret is not None else result)


def _unreadable(answer: Answer, message: str) -> Failure:
    return Failure(Reach.UNKNOWN, message, transient=False, http_status=answer.status)


def _why(error: errors.MeshError) -> str:
    # The violation's text may quote the body; its first words say enough.
    return error.violations[0].description.split(":")[0] if error.violations else "is not JSON"


def _violations(schema: Schema | None, value: Any) -> list[errors.Violation]:
    return schema.compiled.validate(value) if schema is not None else []


def _excerpt(answer: Answer, secret: Secret | None) -> str:
    text = answer.body.decode("utf-8", "replace")
    if secret is not None:
        text = secret.redact_cut(text) if answer.cut else secret.redact(text)
    text = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if not text:
        return ""
    return f": {text}" if len(text) <= _EXCERPT_CHARACTERS else f": {text[: _EXCERPT_CHARACTERS - 1]}…"


def to_error(
    failure: Failure, integration: Integration, operation: Operation, retry_after: float | None
) -> errors.MeshError:
    """Return the error that a failed call ends with.

    FAILED_PRECONDITION INTEGRATION_REFUSED when the system declined it for good, else UNAVAILABLE
    INTEGRATION_FAILED with the seconds after which another attempt makes sense.
    """
    metadata = {"integration": integration.name, "operation": operation.name}
    if failure.http_status:
        metadata["http_status"] = str(failure.http_status)
    message = f"{integration.name}.{operation.name}: {integration.name} {failure.message}"
    if failure.http_status and not failure.transient and not 200 <= failure.http_status < 300:
        return errors.failed_precondition("INTEGRATION_REFUSED", message, **metadata)
    return errors.unavailable("INTEGRATION_FAILED", message, retry_after=retry_after, **metadata)
