"""Remembers jobs that were put aside for want of an instance: one that connects gets them at once."""

from __future__ import annotations

from collections import OrderedDict

from services.scheduler.instances import Handler
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

MOST_REMEMBERED = 10_000


class Aside:
    """Jobs by agent and version, the oldest forgotten first: they come back by their delay anyway."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._jobs: OrderedDict[tuple[str, int], Dispatch] = OrderedDict()
        self._by_handler: dict[Handler, dict[tuple[str, int], Dispatch]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, dispatch: Dispatch) -> None:
        """Remember a job."""
        key = (dispatch.job_id, dispatch.dispatch)
        self._jobs[key] = dispatch
        self._by_handler.setdefault(_handler(dispatch), {})[key] = dispatch
        if len(self._jobs) > self._most:
            self.discard(next(iter(self._jobs)))

    def discard(self, key: tuple[str, int]) -> None:
        """Forget a job: its message is back."""
        dispatch = self._jobs.pop(key, None)
        if dispatch is not None:
            handler = _handler(dispatch)
            members = self._by_handler[handler]
            del members[key]
            if not members:
                del self._by_handler[handler]

    def holds(self, key: tuple[str, int]) -> bool:
        """Tell whether a job is put aside."""
        return key in self._jobs

    def take(self, handlers: frozenset[Handler], most: int) -> list[Dispatch]:
        """Return and forget up to `most` jobs that one of the handlers can run, the oldest of each first."""
        taken: list[Dispatch] = []
        for handler in self._by_handler.keys() & handlers:
            for key, dispatch in list(self._by_handler[handler].items())[: most - len(taken)]:
                taken.append(dispatch)
                self.discard(key)
        return taken


def _handler(dispatch: Dispatch) -> Handler:
    return dispatch.agent, dispatch.version
