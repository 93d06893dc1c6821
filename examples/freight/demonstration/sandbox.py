"""Starts the sandbox as a process of its own and stops it again."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0

#: The systems misbehave a little all the time: retries are part of ordinary life.
MISBEHAVIOUR: Final = tuple(
    f"{system}:error_rate=0.02,throttle_rate=0.01,retry_after=1"
    for system in ("carrier-a", "carrier-b", "customs", "erp")
)


class SandboxFailed(Exception):
    """The sandbox did not come up; its log says why."""


@asynccontextmanager
async def run_sandbox(record: Path, log: Path, seed: int, latency_scale: float = 1.0) -> AsyncIterator[str]:
    """Yields the URL of a running sandbox. It ends with the block, and also when this process dies."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *_command(record, seed, latency_scale),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield await _address(process, log)
    finally:
        await _stop(process)


def _command(record: Path, seed: int, latency_scale: float) -> Sequence[str]:
    options = ["--record", str(record), "--seed", str(seed), "--latency-scale", str(latency_scale)]
    for misbehaviour in MISBEHAVIOUR:
        options += ["--misbehave", misbehaviour]
    return [sys.executable, "-m", "examples.freight.sandbox", "--until-stdin-ends", *options]


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    if process.stdout is None:
        raise SandboxFailed("the sandbox has no output to read")
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    except TimeoutError:
        raise SandboxFailed(f"the sandbox did not serve within {START_SECONDS:.0f} s: {log}") from None
    match = re.fullmatch(rb"listening on (http://\S+)\n", line)
    if match is None:
        raise SandboxFailed(f"the sandbox ended at start: {log}")
    return match[1].decode()


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
