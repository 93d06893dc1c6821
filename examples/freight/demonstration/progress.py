"""Shows a run: a live bar a lane in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from examples.freight.demonstration.tally import Tally

LINE_SECONDS: Final = 2.0


class Display:
    """Where a run is shown. Use as a context; `follow` before `advance`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._began = self._last_line = clock()
        self._tallies: tuple[Tally, ...] = ()
        self._tasks: dict[str, TaskID] = {}
        self._bars = _bars(console) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def follow(self, tallies: tuple[Tally, ...]) -> Self:
        """Shows these tallies from now on."""
        self._tallies = tallies
        if self._bars is not None:
            self._tasks = {
                tally.lane: self._bars.add_task(tally.lane, total=tally.total, counts="") for tally in tallies
            }
        return self

    def note(self, text: str) -> None:
        """Prints a line with the time since the start."""
        self._console.print(
            f"{self._clock() - self._began:6.1f} s  {text}", highlight=False, markup=False, soft_wrap=True
        )

    def advance(self) -> None:
        """Shows the tallies as they stand; as lines at most every two seconds, and at the end."""
        if self._bars is not None:
            for tally in self._tallies:
                self._bars.update(self._tasks[tally.lane], completed=tally.ended, counts=_counts(tally))
            return
        all_ended = all(tally.ended == tally.total for tally in self._tallies)
        if all_ended or self._clock() - self._last_line >= LINE_SECONDS:
            self._last_line = self._clock()
            self.note("   ".join(map(_line, self._tallies)))


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:9}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _line(tally: Tally) -> str:
    return f"{tally.lane} {tally.ended}/{tally.total} {_counts(tally)}"


def _counts(tally: Tally) -> str:
    text = f"({tally.succeeded} ok, {tally.failed_as_expected} refused as expected"
    return text + (f", {tally.unexpected} UNEXPECTED)" if tally.unexpected else ")")
