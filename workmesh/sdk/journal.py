"""The journal of one attempt: what earlier attempts finished, and what this one has yet to make durable."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from workmesh.errors import MeshError
from workmesh.ledger.v1.event_pb2 import StepKind
from workmesh.ledger.v1.job_pb2 import JournalStep
from workmesh.sdk.errors import AttemptAborted, AttemptLost, NonRetryableError
from workmesh.sdk.outcome import DEAD_LETTER, Failure, replay_mismatch
from workmesh.sdk.runtime import Runtime

MOST_JOURNAL_BYTES: Final = 2 << 20
"""Results of all steps of a job together: with the input they must fit one message."""

_MOST_RECORDED_STEPS: Final = 256
_MANY_STEPS: Final = 128
_MANY_BYTES: Final = 256 << 10


class Journal:
    """Replays recorded steps by key, gathers finished ones and records them before the next effect.

    A tool call's passing failure is kept aside until the handler goes on past it: then its outcome has shaped
    the program and is journaled too. Until then the next attempt shall make the call again.
    """

    def __init__(self, recorded: Iterable[JournalStep], runtime: Runtime) -> None:
        self._runtime = runtime
        self._recorded = {step.step: step for step in recorded}
        self._size = sum(step.ByteSize() for step in self._recorded.values())
        self._pending: list[JournalStep] = []
        self._pending_size = 0
        self._aside: list[tuple[str, JournalStep]] = []
        self._recording: asyncio.Future[None] | None = None
        self._finished = 0
        self.fault: BaseException | None = None

    @property
    def finished_count(self) -> int:
        """Steps finished in this attempt, replayed ones included."""
        return self._finished

    @property
    def is_heavy(self) -> bool:
        """Whether so much is pending that it must not wait for the next effect."""
        return len(self._pending) >= _MANY_STEPS or self._pending_size >= _MANY_BYTES

    def replay(
        self, key: str, kind: StepKind.ValueType, name: str, arguments_digest: bytes
    ) -> JournalStep | None:
        """Return the recorded step of a key, None when it has yet to be taken.

        Raises AttemptAborted when the program took another way than its journal: then, and from then on.
        """
        if self.fault is not None:
            raise self.fault
        step = self._recorded.get(key)
        if step is None:
            return None
        if step.kind != kind or step.name != name or step.arguments_digest != arguments_digest:
            self.fault = AttemptAborted(replay_mismatch(step, kind, name, arguments_digest))
            raise self.fault
        self._finished += 1
        return step

    def add(self, step: JournalStep) -> None:
        """Take a finished step, to be recorded before the next effect or with the attempt's end."""
        size = step.ByteSize()
        self._size += size
        if self._size > MOST_JOURNAL_BYTES:
            raise NonRetryableError(
                f"the steps of this job hold more than {MOST_JOURNAL_BYTES} bytes: "
                "return references to large results"
            )
        self._finished += 1
        self._pending.append(step)
        self._pending_size += size

    def set_aside(self, scope: str, step: JournalStep) -> None:
        """Keep a step that failed in a scope, until the program goes on past it."""
        self._aside.append((scope, step))

    def go_on(self, scope: str) -> None:
        """Note that a scope takes a further step: it knows the failures of itself and of its branches."""
        if not self._aside:
            return
        for where, step in self._aside:
            if where.startswith(scope):
                self.add(step)
        self._aside = [each for each in self._aside if not each[0].startswith(scope)]

    async def settle(self) -> None:
        """Return when every step finished so far is durable."""
        while self._pending or self._recording is not None:
            if self._recording is None:
                self._start_recording()
            if self._recording is not None:
                await asyncio.wait((self._recording,))
            if self.fault is not None:
                raise self.fault

    async def finish_recording(self) -> None:
        """Return when no recording is under way; how it ended is known by the fault."""
        if self._recording is not None:
            await asyncio.wait((self._recording,))

    def all_pending(self) -> list[JournalStep]:
        """Return what is not yet durable, for an end that is final."""
        self.go_on("")
        return list(self._pending)

    def pending_for_retry(self, failed_step: str = "") -> list[JournalStep]:
        """Return what is not yet durable and shall hold in the next attempt.

        The step whose failure ended the attempt is left out, so that the call is made again. So are state
        reads that no effect followed, and what came after them: the next attempt shall see the documents as
        they are then.
        """
        steps = [step for step in self._pending if step.step != failed_step]
        return steps[: _first_loose_read(steps)]

    def cut_at(self, key: str) -> list[JournalStep] | None:
        """Return what is pending before a step; None when that step is durable already."""
        keys = [step.step for step in self._pending]
        return self._pending[: keys.index(key)] if key in keys else None

    def _start_recording(self) -> None:
        batch = self._pending[:_MOST_RECORDED_STEPS]
        del self._pending[:_MOST_RECORDED_STEPS]
        self._pending_size = sum(step.ByteSize() for step in self._pending)
        self._recording = asyncio.ensure_future(self._runtime.record_steps(batch))
        self._recording.add_done_callback(self._recorded_steps)

    def _recorded_steps(self, future: asyncio.Future[None]) -> None:
        self._recording = None
        if future.cancelled():
            self.fault = AttemptLost("recording was cut off")
            return
        error = future.exception()
        if isinstance(error, MeshError):
            self.fault = AttemptAborted(Failure(DEAD_LETTER, error))
        elif error is not None:
            self.fault = error


def _first_loose_read(steps: list[JournalStep]) -> int:
    """Return the index of the first state read or update that no tool call follows, else the length."""
    loose = len(steps)
    for index in range(len(steps) - 1, -1, -1):
        if steps[index].kind == StepKind.STEP_KIND_TOOL:
            break
        if steps[index].kind in (StepKind.STEP_KIND_STATE_READ, StepKind.STEP_KIND_STATE_WRITE):
            loose = index
    return loose
