"""What an attempt asks of whoever runs it: the agent service, or a test."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from workmesh.ledger.v1.job_pb2 import JournalStep, StateDocument, StateWrite


class Runtime(Protocol):
    """The world outside of one attempt.

    Every method may raise AttemptLost once the attempt has no right to go on, and must do so before it
    lets an effect happen.
    """

    def call_tool(self, step: str, tool: str, arguments: bytes) -> Awaitable[bytes]:
        """Make a tool call and return its JSON result; MeshError says why it failed."""
        ...

    def record_steps(self, steps: Sequence[JournalStep]) -> Awaitable[None]:
        """Make 1 to 256 finished steps durable, in order; MeshError when they are refused for good."""
        ...

    def read_state(self, collection: str, key: str) -> Awaitable[StateDocument]:
        """Return a document of the job's client; version 0: it does not exist."""
        ...

    def commit(
        self, output: bytes, steps: Sequence[JournalStep], writes: Sequence[StateWrite]
    ) -> Awaitable[Sequence[StateDocument]]:
        """End the attempt well, all or nothing.

        Returns the documents that were not at their expected version, as they are now: nothing was changed
        then. An empty answer means committed. MeshError when the commit is refused for good.
        """
        ...
