"""A real NATS server with JetStream in a folder of its own, to be killed, wiped and started again."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
from nats.js.client import JetStreamContext

from workmesh.local.binaries import find_script


class NatsServer:
    """One server: keeps its port over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def store(self) -> Path:
        return self.folder / "jetstream"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start and return when clients are served."""
        binary = find_script("nats-server")
        assert binary is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            command: list[str] = [
                str(binary),
                "-a",
                "127.0.0.1",
                "-p",
                str(self.port),
                "-js",
                "-sd",
                str(self.folder),
            ]
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        async with asyncio.timeout(20):
            await self._listening()

    async def _listening(self) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return

    async def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def wipe(self) -> None:
        """Delete JetStream's directory, whether the server runs or not."""
        shutil.rmtree(self.store, ignore_errors=True)


async def administer(server: NatsServer, act: Callable[[JetStreamContext], Awaitable[object]]) -> None:
    """Do something to JetStream behind the scheduler's back."""
    client = await nats.connect(server.url)
    try:
        await act(client.jetstream(timeout=10))
    finally:
        await client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
