"""Hints of changed jobs, as the scheduler broadcasts them over core NATS: they may be lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import nats
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg

from workmesh.common.v1.job_pb2 import JobState
from workmesh.scheduler.v1.dispatch_pb2 import JobHints

_logger = logging.getLogger(__name__)

SUBJECT = "hints.jobs"
_RETRY_SECONDS = 0.5
_MOST_PENDING_BYTES = 64 << 20


class HintListener:
    """Passes hints on to `changed(job_id, seq, state)`; reconnects for ever."""

    def __init__(
        self, url: str, instance: str, changed: Callable[[str, int, JobState.ValueType], None]
    ) -> None:
        self._url = url
        self._instance = instance
        self._changed = changed
        self._client: Client | None = None

    async def run(self) -> None:
        """Connect and listen until cancelled; a NATS that is down delays watches but fails nothing."""
        while True:
            try:
                self._client = await self._connect()
                break
            except (OSError, TimeoutError, nats.errors.Error) as error:
                _logger.warning(
                    "NATS does not answer",
                    extra={"action": "nats_unreachable", "error": type(error).__name__},
                )
                await asyncio.sleep(_RETRY_SECONDS)
        await self._client.subscribe(
            SUBJECT, cb=self._received, pending_msgs_limit=65_536, pending_bytes_limit=_MOST_PENDING_BYTES
        )
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Leave NATS."""
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> Client:
        return await nats.connect(
            self._url,
            name=self._instance,
            inbox_prefix=b"_INBOX_gateway",
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RETRY_SECONDS,
            connect_timeout=2,
            error_cb=self._failed,
        )

    async def _received(self, message: Msg) -> None:
        try:
            hints = JobHints.FromString(message.data)
        except DecodeError:
            _logger.warning("a hint could not be read", extra={"action": "hint_malformed"})
            return
        for hint in hints.hints:
            self._changed(hint.job_id, hint.seq, hint.state)

    async def _failed(self, error: Exception) -> None:
        _logger.warning("NATS reports", extra={"action": "nats_error", "error": str(error)[:200]})
