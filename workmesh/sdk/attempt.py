"""One attempt from its grant to its end: run the handler over the journal, then commit."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from typing import Any, Final

import orjson

from workmesh import payload
from workmesh.errors import MeshError, Violation, invalid_argument
from workmesh.ledger.v1.job_pb2 import JobRecord, JournalStep
from workmesh.ledger.v1.ledger_write_service_pb2 import FailAttempt
from workmesh.sdk.context import Context
from workmesh.sdk.definition import Definition
from workmesh.sdk.documents import Document, Documents, Ref
from workmesh.sdk.errors import AttemptAborted, HandlerError, RetryableError, ToolError
from workmesh.sdk.journal import Journal
from workmesh.sdk.outcome import CANCEL, FAIL, Failure, judge, state_conflict
from workmesh.sdk.runtime import Runtime
from workmesh.sdk.scope import Scope, current_scope
from workmesh.sdk.steps import Steps

MOST_CONFLICTS: Final = 20
"""How often update functions run again before the attempt is given up."""

_FIRST_PAUSE: Final = 0.005
_MOST_PAUSE: Final = 0.5


class Attempt:
    """Runs one attempt of a job in the task that awaits `run`; cancelling that task ends it early."""

    def __init__(
        self, definition: Definition, job: JobRecord, journal: Iterable[JournalStep], runtime: Runtime
    ) -> None:
        self._definition = definition
        self._runtime = runtime
        self._journal = Journal(journal, runtime)
        self._documents = Documents()
        self.context = Context(job, orjson.loads(job.input), Steps(self._journal, self._documents, runtime))
        self.is_committing = False
        """Whether the handler has ended and its outcome is on its way: nothing is left to cancel then."""

    @property
    def step_count(self) -> int:
        """Steps finished in this attempt, replayed ones included."""
        return self._journal.finished_count

    async def run(self) -> Failure | None:
        """Run to the end; None: committed, otherwise the failure that is to be reported.

        Raises AttemptLost when nothing is to be reported, CancelledError when the caller cancelled, whatever
        the handler made of that.
        """
        try:
            output = await self._run_handler()
            self.is_committing = True
            return await self._commit(output)
        except (Exception, AttemptAborted) as error:
            failure = judge(error)
            self._log(failure, error)
            failed_step = error.step if isinstance(error, ToolError) else ""
            return await self._with_steps(failure, failed_step)

    async def stop(self, failure: Failure) -> Failure:
        """Return the failure of an attempt that its host stopped, with the steps that shall hold."""
        return await self._with_steps(failure)

    async def _run_handler(self) -> bytes:
        task = asyncio.current_task()
        token = current_scope.set(Scope("", task))
        try:
            output = await self._definition.function(self.context)
        except BaseException as error:
            ended = self._why_ended(error, task)
            if ended is error:
                raise
            raise ended from error
        finally:
            current_scope.reset(token)
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        if self._journal.fault is not None:
            raise self._journal.fault
        return self._encode(output)

    def _why_ended(self, error: BaseException, task: asyncio.Task[Any] | None) -> BaseException:
        """Return what really ended the handler: its own exceptions may cover that up."""
        if task is not None and task.cancelling():
            return error if isinstance(error, asyncio.CancelledError) else asyncio.CancelledError()
        if self._journal.fault is not None:
            return self._journal.fault
        if isinstance(error, asyncio.CancelledError | SystemExit):
            return RetryableError(f"the handler raised {type(error).__name__}")
        return error

    def _encode(self, output: Any) -> bytes:
        if not isinstance(output, dict):
            kind = type(output).__name__
            raise invalid_argument(
                f"the handler returned {kind}, not a JSON object",
                Violation("output", f"is {kind}, not an object"),
            )
        data = payload.dump_json(output)
        if self._definition.output_check is not None:
            self._definition.output_check.check(orjson.loads(data))
        return data

    async def _commit(self, output: bytes) -> Failure | None:
        """Commit; where only update functions stand against fresh documents, run them again and repeat."""
        if self._journal.is_heavy:
            await self._journal.settle()
        await self._journal.finish_recording()
        steps = self._journal.all_pending()
        pause = _FIRST_PAUSE
        conflicts = await self._runtime.commit(output, steps, self._documents.writes())
        for _ in range(MOST_CONFLICTS):
            if not conflicts:
                return None
            stuck = self._documents.rebase(conflicts)
            if stuck is not None:
                return self._conflict(*stuck)
            # Writers of one document would otherwise meet again and again.
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _MOST_PAUSE)
            conflicts = await self._runtime.commit(output, steps, self._documents.writes())
        if not conflicts:
            return None
        return await self._with_steps(
            state_conflict(conflicts[0].collection, conflicts[0].key, may_retry=True)
        )

    def _conflict(self, ref: Ref, document: Document) -> Failure:
        """Return the failure of a plain write over a changed document: another attempt may read again."""
        steps = self._journal.cut_at(document.read_step)
        failure = state_conflict(*ref, may_retry=steps is not None)
        return failure.with_steps(self._journal.all_pending() if steps is None else steps)

    async def _with_steps(self, failure: Failure, failed_step: str = "") -> Failure:
        await self._journal.finish_recording()
        if failure.verdict in (FAIL, CANCEL):
            return failure.with_steps(self._journal.all_pending())
        return failure.with_steps(self._journal.pending_for_retry(failed_step))

    def _log(self, failure: Failure, error: BaseException) -> None:
        expected = isinstance(error, HandlerError | MeshError | AttemptAborted)
        self.context.log.log(
            logging.INFO if expected else logging.WARNING,
            "the attempt failed: %s",
            failure.error.message,
            exc_info=None if expected else error,
            extra={
                "action": "attempt_failed",
                "reason": failure.error.reason,
                "verdict": FailAttempt.Verdict.Name(failure.verdict).removeprefix("VERDICT_"),
            },
        )
