"""Who may make which call: job tokens, and the first look at what is asked."""

from __future__ import annotations

from typing import Final

from services.toolhub.call import Call
from services.toolhub.catalogue import Catalogue, Target
from workmesh import errors
from workmesh.common.v1.token_pb2 import Grant, JobToken
from workmesh.tokens import TokenVerifier
from workmesh.toolhub.v1.tool_service_pb2 import ToolCall

_MAX_STEP_CHARACTERS: Final = 256


class Admission:
    """Admits the calls that a job token allows."""

    def __init__(self, catalogue: Catalogue, verifier: TokenVerifier) -> None:
        self._catalogue = catalogue
        self._verifier = verifier

    def show(self, token: JobToken) -> None:
        """Take note of a token; UNAUTHENTICATED TOKEN_INVALID when it is none of the ledger's, or expired."""
        self._verifier.verify(token)

    def permit(self, asked: ToolCall) -> tuple[Grant, Target]:
        """Return the right to a call and what it leads to.

        UNAUTHENTICATED TOKEN_INVALID, PERMISSION_DENIED TOOL_NOT_ALLOWED, NOT_FOUND TOOL_NOT_FOUND,
        INVALID_ARGUMENT.
        """
        grant = self._verifier.permit(asked.token_id, asked.job_id, asked.tool)
        if grant.epoch != asked.epoch:
            raise errors.unauthenticated("the token grants the job under another epoch")
        if not 0 < len(asked.step) <= _MAX_STEP_CHARACTERS:
            raise errors.invalid_argument(
                "the call names no step",
                errors.Violation("call.step", f"has not 1 to {_MAX_STEP_CHARACTERS} characters"),
            )
        return grant, self._catalogue.find(asked.tool)


def to_call(asked: ToolCall, grant: Grant, target: Target, deadline: float | None = None) -> Call:
    """Return a permitted call, whose caller waits until the earlier of its own deadline and the given one."""
    if asked.deadline_micros > 0:
        own = asked.deadline_micros / 1e6
        deadline = own if deadline is None else min(own, deadline)
    return Call(
        target,
        asked.job_id,
        asked.epoch,
        grant.series,
        asked.step,
        asked.arguments,
        deadline,
        asked.traceparent,
    )
