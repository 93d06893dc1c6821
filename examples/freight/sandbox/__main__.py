"""Runs the sandbox: `python -m examples.freight.sandbox --record DIR [--port 0] [--seed 1] …`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop
from aiohttp import web

from examples.freight.sandbox.misbehaviour import Misbehaviour
from examples.freight.sandbox.server import Sandbox
from examples.freight.sandbox.settings import SandboxSettings


def parse_settings(arguments: list[str] | None = None) -> SandboxSettings:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.freight.sandbox", description=__doc__)
    parser.add_argument(
        "--record", type=Path, required=True, help="directory of requests.jsonl and effects.jsonl"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; it is printed")
    parser.add_argument("--seed", type=int, default=1, help="latency, faults and rates follow it")
    parser.add_argument("--latency-median", type=float, default=0.3, help="seconds")
    parser.add_argument("--latency-p99", type=float, default=2.0, help="seconds")
    parser.add_argument(
        "--latency-scale", type=float, default=1.0, help="multiplies every latency; 0 switches it off"
    )
    parser.add_argument(
        "--misbehave",
        action="append",
        default=[],
        metavar="SYSTEM:FIELD=NUMBER,…",
        help="e.g. erp:error_rate=0.1,throttle_rate=0.05; can be given again",
    )
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop when its starter is gone")
    options = parser.parse_args(arguments)
    try:
        misbehaviour = dict(_misbehaviour(text) for text in options.misbehave)
    except ValueError as error:
        parser.error(f"--misbehave: {error}")
    return SandboxSettings(
        record=options.record,
        host=options.host,
        port=options.port,
        seed=options.seed,
        latency_median=options.latency_median,
        latency_p99=options.latency_p99,
        latency_scale=options.latency_scale,
        misbehaviour=misbehaviour,
        until_stdin_ends=options.until_stdin_ends,
    )


async def serve(settings: SandboxSettings) -> None:
    """Serves until it is told to stop; prints `listening on <url>` once it does."""
    sandbox = Sandbox(settings)
    runner = web.AppRunner(sandbox.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, settings.host, settings.port)
    await site.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.until_stdin_ends:
        await loop.connect_read_pipe(lambda: _AtEnd(stop.set), sys.stdin)
    host, port = runner.addresses[0][:2]
    print(f"listening on http://{host}:{port}", flush=True)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()
        sandbox.close()


class _AtEnd(asyncio.Protocol):
    """Calls back when the other end of a pipe is closed."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def connection_lost(self, _: Exception | None) -> None:
        self._callback()


def _misbehaviour(text: str) -> tuple[str, Misbehaviour]:
    system, _, pairs = text.partition(":")
    values = {name: float(number) for name, _, number in (pair.partition("=") for pair in pairs.split(","))}
    return system, Misbehaviour.parse(values)


if __name__ == "__main__":
    uvloop.run(serve(parse_settings()))
