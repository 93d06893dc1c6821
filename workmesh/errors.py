"""The one error type of the mesh and its two-way translation to google.rpc.Status.

Codes and details follow AIP-193: ErrorInfo always (domain `workmesh`), BadRequest for bad input, RetryInfo
where waiting helps, QuotaFailure for limits, PreconditionFailure for a wrong state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "workmesh"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
_CUT_STREAM: Final = ("RST_STREAM", "Internal error from Core")

_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

# What a status without ErrorInfo means: one that gRPC itself made, or a foreign server.
_PLAIN_REASONS: Final[Mapping[grpc.StatusCode, str]] = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_FIELD",
    grpc.StatusCode.UNAUTHENTICATED: "TOKEN_INVALID",
    grpc.StatusCode.PERMISSION_DENIED: "ROLE_MISSING",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "LIMIT_EXCEEDED",
    grpc.StatusCode.UNAVAILABLE: "DEPENDENCY_DOWN",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE_EXCEEDED",
    grpc.StatusCode.CANCELLED: "CANCELLED",
    grpc.StatusCode.UNIMPLEMENTED: "UNIMPLEMENTED",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One wrong field of a request: its path (`input.container.number`) and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """One condition that does not hold: its type (`JOB_STATE`), its subject (`jobs/<id>`) and why."""

    type: str
    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit that was met: whose (`clients/<id>`) and which."""

    subject: str
    description: str


class MeshError(Exception):
    """A failure that callers are told about.

    `reason` is a value of common.v1.ErrorReason without its prefix, `retry_after` counts seconds, every
    number in the message is in `metadata` too.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: tuple[Violation, ...] = (),
        retry_after: float | None = None,
        preconditions: tuple[Precondition, ...] = (),
        quotas: tuple[Quota, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = violations
        self.retry_after = retry_after
        self.preconditions = preconditions
        self.quotas = quotas

    def __str__(self) -> str:
        listed = "; ".join(f"{each.field}: {each.description}" for each in self.violations)
        return f"{self.code.name} {self.reason}: {self.message}" + (f" ({listed})" if listed else "")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.code.value[0], self.reason, self.message, self._details()))

    def _details(self) -> dict[str, object]:
        return {
            "metadata": self.metadata,
            "violations": self.violations,
            "retry_after": self.retry_after,
            "preconditions": self.preconditions,
            "quotas": self.quotas,
        }

    def copy(self) -> MeshError:
        """Return an equal error without traceback: one for each of several waiters that fail together."""
        return _rebuild(self.code.value[0], self.reason, self.message, self._details())


def _rebuild(code: int, reason: str, message: str, details: dict[str, object]) -> MeshError:
    return MeshError(_CODES[code], reason, message, **details)  # type: ignore[arg-type]


def invalid_argument(
    message: str, *violations: Violation, reason: str = "INVALID_FIELD", **metadata: str
) -> MeshError:
    return MeshError(
        grpc.StatusCode.INVALID_ARGUMENT, reason, message, metadata=metadata, violations=tuple(violations)
    )


def not_found(kind: Literal["job", "agent", "state", "tool", "instance"], name: str) -> MeshError:
    """Say that an object does not exist, or is not the caller's: the two are never told apart."""
    return MeshError(
        grpc.StatusCode.NOT_FOUND,
        f"{kind.upper()}_NOT_FOUND",
        f"{kind} {name!r} was not found",
        metadata={"kind": kind, "name": name},
    )


def already_exists(reason: str, message: str, **metadata: str) -> MeshError:
    return MeshError(grpc.StatusCode.ALREADY_EXISTS, reason, message, metadata=metadata)


def failed_precondition(
    reason: str, message: str, *preconditions: Precondition, **metadata: str
) -> MeshError:
    return MeshError(
        grpc.StatusCode.FAILED_PRECONDITION,
        reason,
        message,
        metadata=metadata,
        preconditions=tuple(preconditions),
    )


def aborted(reason: str, message: str, **metadata: str) -> MeshError:
    return MeshError(grpc.StatusCode.ABORTED, reason, message, metadata=metadata)


def permission_denied(reason: str, message: str, **metadata: str) -> MeshError:
    return MeshError(grpc.StatusCode.PERMISSION_DENIED, reason, message, metadata=metadata)


def unauthenticated(message: str) -> MeshError:
    return MeshError(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", message)


def resource_exhausted(
    reason: str, message: str, *quotas: Quota, retry_after: float | None = None, **metadata: str
) -> MeshError:
    return MeshError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        reason,
        message,
        metadata=metadata,
        retry_after=retry_after,
        quotas=tuple(quotas),
    )


def unavailable(reason: str, message: str, *, retry_after: float | None = None, **metadata: str) -> MeshError:
    return MeshError(grpc.StatusCode.UNAVAILABLE, reason, message, metadata=metadata, retry_after=retry_after)


def deadline_exceeded(message: str) -> MeshError:
    return MeshError(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", message)


def internal() -> MeshError:
    """Say that something is broken, and nothing else: the details are for the log."""
    return MeshError(grpc.StatusCode.INTERNAL, "INTERNAL", "internal error")


def to_status(error: MeshError) -> status_pb2.Status:
    """Return the status message that carries every field of the error."""
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(bad)
    if error.retry_after is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_after)))
    if error.preconditions:
        failure = error_details_pb2.PreconditionFailure()
        for condition in error.preconditions:
            failure.violations.add(
                type=condition.type, subject=condition.subject, description=condition.description
            )
        status.details.add().Pack(failure)
    if error.quotas:
        limit = error_details_pb2.QuotaFailure()
        for quota in error.quotas:
            limit.violations.add(subject=quota.subject, description=quota.description)
        status.details.add().Pack(limit)
    return status


def from_status(status: status_pb2.Status) -> MeshError:
    """Return the error that a status message carries; one of foreign making keeps its code and message."""
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    failure = error_details_pb2.PreconditionFailure()
    limit = error_details_pb2.QuotaFailure()
    retry_after: float | None = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
        else:
            any(detail.Unpack(known) for known in (info, bad, failure, limit))
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return MeshError(
        code,
        info.reason or _PLAIN_REASONS.get(code, "INTERNAL"),
        status.message,
        metadata=info.metadata,
        violations=tuple(Violation(each.field, each.description) for each in bad.field_violations),
        retry_after=retry_after,
        preconditions=tuple(
            Precondition(each.type, each.subject, each.description) for each in failure.violations
        ),
        quotas=tuple(Quota(each.subject, each.description) for each in limit.violations),
    )


def is_ok(status: status_pb2.Status) -> bool:
    """Tell whether the status of a batch's item, possibly absent, means success."""
    return status.code == 0


def from_rpc_error(error: grpc.aio.AioRpcError) -> MeshError:
    """Return what a failed call says: its status details when the server sent them, else code and message."""
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.INTERNAL and any(mark in details for mark in _CUT_STREAM):
        # A server died in mid-stream: its proxy can only reset the stream then, which reads INTERNAL, and so
        # does what grpc.aio makes of a write that comes after.
        return unavailable("DEPENDENCY_DOWN", "the stream was cut before its end")
    return MeshError(code, _PLAIN_REASONS.get(code, "INTERNAL"), details or code.name)


def _duration(seconds: float) -> Duration:
    nanos = max(0, round(seconds * 1e9))
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)
