"""A whole service whose life is tested: `python service_under_test.py <how it behaves>`."""

from __future__ import annotations

import asyncio
import logging
import sys

from workmesh import log
from workmesh.config import ConfigError
from workmesh.rpc.server import MeshServer, ServerSettings, run, serve_until_signal

_logger = logging.getLogger("test")


class Life:
    """Does as the command line says at each stage."""

    def __init__(self, behavior: str) -> None:
        self._behavior = behavior
        self._tasks: list[asyncio.Task[None]] = []

    async def main(self) -> None:
        if self._behavior == "misconfigured":
            raise ConfigError(["WORKMESH_TEST_PORT is missing", "WORKMESH_TEST_HOST is missing"])
        grace = 0.2 if self._behavior == "drains-too-long" else 30.0
        self._server = MeshServer(ServerSettings("test", grace=grace))
        await serve_until_signal(self._server, ready=self._ready, drain=self._drain)

    async def _ready(self) -> None:
        _logger.info("ready", extra={"action": "stage"})
        if self._behavior == "never-ready":
            await asyncio.Event().wait()
        if self._behavior == "ready-fails":
            raise LookupError("no database")
        if self._behavior == "task-fails":
            self._tasks.append(asyncio.create_task(self._fail()))
            self._server.watch(self._tasks[0])

    async def _fail(self) -> None:
        raise LookupError("the task is lost")

    async def _drain(self) -> None:
        _logger.info("drain", extra={"action": "stage"})
        if self._behavior.startswith("drains-"):
            await asyncio.Event().wait()


if __name__ == "__main__":
    log.configure("test", "1", "INFO")
    run(Life(sys.argv[1]).main)
