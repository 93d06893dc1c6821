"""What a handler sees of its job and of the world."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

from workmesh import ids
from workmesh.ledger.v1.job_pb2 import JobRecord
from workmesh.sdk.branches import gather
from workmesh.sdk.encoding import canonical_json
from workmesh.sdk.errors import NonRetryableError
from workmesh.sdk.steps import Steps

MOST_BRANCHES: Final = 256
MOST_NAME_LENGTH: Final = 128

_logger = logging.getLogger("workmesh.handler")


class Context:
    """One attempt, as its handler sees it.

    Everything that could differ between two attempts goes through here and is journaled, so that a later
    attempt, on any instance, goes the same way without doing anything twice. Steps are begun in the order of
    the calls, and run when they are awaited; concurrent ones belong into `gather`.
    """

    __slots__ = (
        "_log",
        "_steps",
        "attempt",
        "cancelled",
        "client_id",
        "deadline",
        "input",
        "job_id",
        "labels",
        "state",
    )

    def __init__(self, job: JobRecord, value: Any, steps: Steps) -> None:
        self._steps = steps
        self._log: logging.LoggerAdapter[logging.Logger] | None = None
        self.input: Any = value
        """The job's input, a JSON object."""
        self.job_id = job.job_id
        self.client_id = job.client_id
        self.attempt = job.attempt
        """Number of this attempt, from 1."""
        self.deadline = _time(job.deadline_micros) if job.deadline_micros else None
        """When the job must be over; None: whenever."""
        self.labels: Mapping[str, str] = dict(job.labels) if job.labels else {}
        self.state = State(steps)
        """The client's state documents."""
        self.cancelled = False
        """Whether somebody asked to cancel the job."""

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines name the job."""
        if self._log is None:
            fields = {"job_id": self.job_id, "client_id": self.client_id, "attempt": self.attempt}
            self._log = _JobLogger(_logger, fields)
        return self._log

    def tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> Coroutine[Any, Any, Any]:
        """Call the tool `integration.operation` with a JSON object and return its JSON result.

        Raises ToolError when the call failed.
        """
        if not _is_tool_name(name):
            raise NonRetryableError(f"{name!r} is not the name of a tool: integration.operation")
        if not isinstance(arguments, dict | None):
            raise NonRetryableError(f"the arguments of {name} are a {type(arguments).__name__}, not a dict")
        data = canonical_json(arguments or {}, f"the arguments of {name}")
        return self._steps.tool(self._steps.allot(), name, data)

    def step(self, name: str, function: Callable[..., Any], *arguments: Any) -> Coroutine[Any, Any, Any]:
        """Run a function, plain or async, once for all attempts and return its JSON value.

        Its value is durable before the next tool call. An exception is raised as it is and not journaled: the
        next attempt runs the function again. Arguments that are JSON are compared on a replay.
        """
        if not _is_step_name(name):
            raise NonRetryableError(f"a step's name has 1 to {MOST_NAME_LENGTH} printable characters")
        return self._steps.function(self._steps.allot(), name, function, arguments)

    def gather(self, *branches: Awaitable[Any]) -> Coroutine[Any, Any, list[Any]]:
        """Run up to 256 branches at the same time and return their results in order.

        The first failure cancels the others, waits for them to end and is raised.
        """
        if len(branches) > MOST_BRANCHES:
            raise NonRetryableError(f"{len(branches)} branches are more than {MOST_BRANCHES}")
        return gather(self._steps.allot(), branches)

    def random(self) -> float:
        """Return a random number in [0, 1), the same in every attempt."""
        number: float = self._steps.value("random", random.random)
        return number

    def now(self) -> datetime:
        """Return the time (UTC) at which an attempt first came here."""
        return datetime.fromisoformat(self._steps.value("now", _now))

    def uuid(self) -> str:
        """Return a new UUIDv7, the same in every attempt."""
        text: str = self._steps.value("uuid", ids.uuid7)
        return text


class State:
    """Documents of the job's client, by collection ([a-z0-9][a-z0-9-]{0,62}) and key (1 to 256 characters).

    Reads are journaled and stay the same for the rest of the job; writes are committed with its success, all
    or nothing. A document has at most 256 KiB of JSON.
    """

    __slots__ = ("_steps",)

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def get(self, collection: str, key: str) -> Coroutine[Any, Any, Any]:
        """Return a document, or None."""
        return self._steps.read(self._steps.allot(), collection, key)

    async def put(self, collection: str, key: str, value: Any) -> None:
        """Replace a document.

        If this job has read it and somebody changed it since, the attempt is repeated when no tool was called
        after the read, and otherwise the job fails with STATE_CONFLICT: prefer `update`.
        """
        self._steps.put(collection, key, value)

    def update(self, collection: str, key: str, function: Callable[[Any], Any]) -> Coroutine[Any, Any, Any]:
        """Replace a document by what a plain function makes of it (None: there is none), and return that.

        If somebody changes the document before the commit, the function alone runs again on the fresh one: it
        must depend on nothing else.
        """
        return self._steps.update(self._steps.allot(), collection, key, function)


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the job's fields to those of the call."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {"action": "handler_log", **(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


def _is_tool_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MOST_NAME_LENGTH and name.isascii()


def _is_step_name(name: object) -> bool:
    return isinstance(name, str) and 1 <= len(name) <= MOST_NAME_LENGTH and name.isprintable()


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1_000_000, UTC)


def _now() -> str:
    return datetime.now(UTC).isoformat()
