"""Moving messages to another time: the new message is stored before the old one is acknowledged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from services.scheduler.bus import Bus
from services.scheduler.delays import delayed
from services.scheduler.messages import Message, Publication
from services.scheduler.publisher import Publisher
from workmesh.batching import Batcher
from workmesh.errors import MeshError
from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

_logger = logging.getLogger(__name__)


class Mover:
    """Publishes without a message id: a swallowed duplicate would lose the job, a second message does not."""

    def __init__(self, bus: Bus, publisher: Publisher) -> None:
        self._bus = bus
        self._publisher = publisher
        self._batcher: Batcher[Publication, None] = Batcher(self._flush, name="moves", flights=2)

    def move(self, message: Message, micros: int, moves: int = 0) -> None:
        """Bring a message again at a time, microseconds since the epoch; acknowledge it when that is sure.

        Left alone when there is no room: it is delivered again when its time for acknowledgement is over.
        """
        if not message.reply:
            return
        publication = delayed(message.dispatch, message.dispatch.SerializeToString(), micros, moves=moves)
        self._submit(publication, message.reply)

    def schedule(self, dispatch: Dispatch, micros: int) -> None:
        """Bring a job that is put aside at another time instead."""
        self._submit(delayed(dispatch, dispatch.SerializeToString(), micros), b"")

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._batcher.close()

    def _submit(self, publication: Publication, reply: bytes) -> None:
        try:
            stored = self._batcher.submit((publication,))
        except MeshError as error:
            _logger.warning(
                "a message stays where it is", extra={"action": "move_refused", "reason": error.reason}
            )
            return
        stored.add_done_callback(lambda done: self._moved(done, reply))

    def _moved(self, done: asyncio.Future[list[None]], reply: bytes) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._bus.owe(reply)
        else:
            _logger.error("a move failed", exc_info=error, extra={"action": "move_failed"})

    async def _flush(self, publications: list[Publication]) -> Sequence[None]:
        await self._publisher.publish(publications)
        return [None] * len(publications)
