"""Why an attempt is stopped from outside, and what its job is told."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

import grpc

from workmesh.errors import MeshError, deadline_exceeded, unavailable
from workmesh.sdk.outcome import CANCEL, FAIL, RETRY, RETURN, Failure


class Stop(Enum):
    """Reasons to stop an attempt; LOST alone is not reported, since there is no right left to report."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    DEADLINE = "deadline"
    DRAIN = "drain"
    LOST = "lost"


_FAILURES: Final[Mapping[Stop, Failure]] = {
    Stop.CANCEL: Failure(
        CANCEL, MeshError(grpc.StatusCode.CANCELLED, "CANCELLED", "the job was cancelled on request")
    ),
    Stop.TIMEOUT: Failure(RETRY, deadline_exceeded("the attempt ran longer than its definition allows")),
    Stop.DEADLINE: Failure(FAIL, deadline_exceeded("the job's deadline passed while it ran")),
    Stop.DRAIN: Failure(RETURN, unavailable("DRAINING", "the instance drains")),
}


def failure_of(stop: Stop) -> Failure:
    """Return what is reported of a stopped attempt; KeyError for LOST."""
    return _FAILURES[stop]
