"""Taking steps: replay where the journal knows the answer, otherwise run, and journal the outcome."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

import grpc
import orjson

from workmesh.errors import MeshError, from_status, invalid_argument, to_status
from workmesh.ledger.v1.event_pb2 import StepKind
from workmesh.ledger.v1.job_pb2 import JournalStep
from workmesh.sdk.documents import Change, Documents, apply_change, decode, encode, field_of
from workmesh.sdk.encoding import MOST_RESULT_BYTES, canonical_json, digest
from workmesh.sdk.errors import AttemptAborted, ToolError
from workmesh.sdk.journal import Journal
from workmesh.sdk.outcome import DEAD_LETTER, Failure, is_transient
from workmesh.sdk.runtime import Runtime
from workmesh.sdk.scope import Scope, current_scope

TOOL: Final = StepKind.STEP_KIND_TOOL
FUNCTION: Final = StepKind.STEP_KIND_FUNCTION
STATE_READ: Final = StepKind.STEP_KIND_STATE_READ
STATE_WRITE: Final = StepKind.STEP_KIND_STATE_WRITE
VALUE: Final = StepKind.STEP_KIND_VALUE

_CUT_OFF_BY: Final = "cancelled_by"
_CUT_OFF: Final = MeshError(
    grpc.StatusCode.CANCELLED,
    "CANCELLED",
    "the handler cancelled the step while it ran",
    metadata={_CUT_OFF_BY: "handler"},
)


class Steps:
    """The steps of one attempt. Each method is given the key that was allotted when the handler called."""

    def __init__(self, journal: Journal, documents: Documents, runtime: Runtime) -> None:
        self._journal = journal
        self._documents = documents
        self._runtime = runtime

    def allot(self) -> str:
        """Return the key of the next step of the running scope."""
        scope = current_scope.get()
        key = scope.next_key()
        self._journal.go_on(scope.prefix)
        return key

    async def tool(self, key: str, name: str, arguments: bytes) -> Any:
        """Call a tool; ToolError when it failed."""
        arguments_digest = digest(arguments)
        known = self._journal.replay(key, TOOL, name, arguments_digest)
        if known is not None:
            if known.HasField("error"):
                await _replay_failure(known)
            return orjson.loads(known.result)
        scope = current_scope.get().prefix
        self._journal.go_on(scope)
        start = _now()
        try:
            await self._journal.settle()
            result = await self._runtime.call_tool(key, name, arguments)
            if len(result) > MOST_RESULT_BYTES:
                raise _too_large(len(result))
        except MeshError as error:
            self._refuse(_failed(key, TOOL, name, arguments_digest, error, start), scope, error)
        except asyncio.CancelledError:
            self._cut_off(key, TOOL, name, arguments_digest, scope, start)
            raise
        self._journal.add(
            JournalStep(
                step=key,
                kind=TOOL,
                name=name,
                arguments_digest=arguments_digest,
                result=result,
                start_time_micros=start,
                end_time_micros=_now(),
            )
        )
        return orjson.loads(result)

    async def function(
        self, key: str, name: str, function: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        """Run a function and return its value as the journal will give it back."""
        arguments_digest = _digest_of(arguments)
        known = self._journal.replay(key, FUNCTION, name, arguments_digest)
        if known is not None:
            if known.HasField("error"):
                await _replay_failure(known)
            return orjson.loads(known.result)
        scope = current_scope.get().prefix
        start = _now()
        # Steps that the function takes have keys below its own: a replay leaves them out with it.
        token = current_scope.set(Scope(f"{key}/", asyncio.current_task()))
        try:
            value = function(*arguments)
            if inspect.isawaitable(value):
                value = await value
        except asyncio.CancelledError:
            self._cut_off(key, FUNCTION, name, arguments_digest, scope, start)
            raise
        finally:
            current_scope.reset(token)
        result = canonical_json(value, f"the result of step {name!r}", MOST_RESULT_BYTES)
        await self._finish(key, FUNCTION, name, arguments_digest, result, start)
        return orjson.loads(result)

    async def read(self, key: str, collection: str, name: str) -> Any:
        """Read a state document: what this attempt wrote or read before, otherwise as it is now."""
        document = self._documents.of(collection, name)
        field = field_of(collection, name)
        known = self._journal.replay(key, STATE_READ, field, b"")
        if known is not None:
            version, value = _unwrap(known.result)
            document.learn(key, version, encode(value, field) if version != 0 else None)
            return value
        start = _now()
        if not document.is_known:
            fresh = await self._runtime.read_state(collection, name)
            document.learn(key, fresh.version, fresh.body if fresh.version else None)
        value = decode(document.body)
        await self._finish(key, STATE_READ, field, b"", _wrap(document.version, value), start)
        return value

    async def update(self, key: str, collection: str, name: str, change: Change) -> Any:
        """Let a function replace a state document, at the commit if need be again; return what it made."""
        document = self._documents.of(collection, name)
        field = field_of(collection, name)
        known = self._journal.replay(key, STATE_WRITE, field, b"")
        if known is not None:
            version, value = _unwrap(known.result)
            document.learn(key, version, None)
            document.update(change, encode(value, field))
            return value
        start = _now()
        if not document.is_known:
            fresh = await self._runtime.read_state(collection, name)
            document.learn(key, fresh.version, fresh.body if fresh.version else None)
        body = apply_change(change, document.body, field)
        document.update(change, body)
        value = decode(body)
        await self._finish(key, STATE_WRITE, field, b"", _wrap(document.version, value), start)
        return value

    def put(self, collection: str, name: str, value: Any) -> None:
        """Replace a state document at the commit."""
        body = encode(value, field_of(collection, name))
        self._documents.of(collection, name).put(body)

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a value that is made once for all attempts."""
        key = self.allot()
        known = self._journal.replay(key, VALUE, name, b"")
        if known is not None:
            return orjson.loads(known.result)
        value = make()
        now = _now()
        self._journal.add(
            JournalStep(
                step=key,
                kind=VALUE,
                name=name,
                result=orjson.dumps(value),
                start_time_micros=now,
                end_time_micros=now,
            )
        )
        return value

    def _cut_off(
        self,
        key: str,
        kind: StepKind.ValueType,
        name: str,
        arguments_digest: bytes,
        scope: str,
        start: int,
    ) -> None:
        """Note that the program itself cancelled a step; if it goes on, a replay must find the same."""
        self._journal.set_aside(scope, _failed(key, kind, name, arguments_digest, _CUT_OFF, start))

    def _refuse(self, step: JournalStep, scope: str, error: MeshError) -> NoReturn:
        """Raise a call's failure to the handler, journaled if it is the call's final outcome."""
        if error.reason == "REPLAY_MISMATCH":
            self._journal.fault = AttemptAborted(Failure(DEAD_LETTER, error))
            raise self._journal.fault
        transient = is_transient(error)
        if transient or error.reason == "EFFECT_UNSETTLED":
            self._journal.set_aside(scope, step)
        else:
            self._journal.add(step)
        raise ToolError(step.name, step.step, error, transient=transient) from None

    async def _finish(
        self,
        key: str,
        kind: StepKind.ValueType,
        name: str,
        arguments_digest: bytes,
        result: bytes,
        start: int,
    ) -> None:
        self._journal.add(
            JournalStep(
                step=key,
                kind=kind,
                name=name,
                arguments_digest=arguments_digest,
                result=result,
                start_time_micros=start,
                end_time_micros=_now(),
            )
        )
        if self._journal.is_heavy:
            await self._journal.settle()


async def _replay_failure(step: JournalStep) -> NoReturn:
    """Fail as a recorded step did: at once, or by waiting for the program to cancel it again."""
    error = from_status(step.error)
    if error.metadata.get(_CUT_OFF_BY) == "handler":
        await asyncio.get_running_loop().create_future()
    raise ToolError(step.name, step.step, error, transient=is_transient(error))


def _failed(
    key: str, kind: StepKind.ValueType, name: str, arguments_digest: bytes, error: MeshError, start: int
) -> JournalStep:
    return JournalStep(
        step=key,
        kind=kind,
        name=name,
        arguments_digest=arguments_digest,
        error=to_status(error),
        start_time_micros=start,
        end_time_micros=_now(),
    )


def _now() -> int:
    return time.time_ns() // 1_000


def _digest_of(arguments: tuple[Any, ...]) -> bytes:
    """Return the digest of a function's arguments; empty without any, or where they are not all JSON."""
    if not arguments:
        return b""
    try:
        return digest(orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS))
    except orjson.JSONEncodeError:
        return b""


def _wrap(version: int | None, value: Any) -> bytes:
    return orjson.dumps({"value": value, "version": version}, option=orjson.OPT_SORT_KEYS)


def _unwrap(result: bytes) -> tuple[int | None, Any]:
    wrapped = orjson.loads(result)
    return wrapped["version"], wrapped["value"]


def _too_large(size: int) -> MeshError:
    return invalid_argument(
        f"the result has {size} bytes of JSON, more than {MOST_RESULT_BYTES}",
        reason="PAYLOAD_TOO_LARGE",
        size=str(size),
        limit=str(MOST_RESULT_BYTES),
    )
