"""The whole mesh under the benchmark job: `python -m bench.mesh` (targets and records: bench/README.md).

CPU per job counts every process of the mesh and the client, in the same run. Nothing is configured
otherwise than `make up` does: fsync on, every promise kept.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import uvloop

from bench.client import BenchClient, Tally
from bench.cpu import cpu_seconds, resident_mebibytes
from bench.rows import Row, add_arguments, percentile, report
from workmesh.common.v1.job_pb2 import JobState
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack

STREAMS = 2
WARM_UP_SECONDS = 2.0
MILLI = 1_000.0
UNARY_CALLERS = 256
UNARY_OPEN = 1_024

Workload = Callable[[Stack, BenchClient, float], Coroutine[None, None, list[Row]]]


class Meter:
    """CPU of all processes, and time, since it was made."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._before = cpu_seconds(stack.pids())
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._start

    def by_kind(self) -> dict[str, float]:
        """CPU seconds by kind of process."""
        now = cpu_seconds(self._stack.pids())
        return {kind: now[kind] - self._before.get(kind, 0.0) for kind in now}


async def bulk(stack: Stack, client: BenchClient, seconds: float) -> list[Row]:
    """StreamJobs through Envoy, 1,024 jobs in flight, 50 a message, completions with outputs."""
    tally, stop = Tally(), asyncio.Event()
    streams = [asyncio.create_task(client.stream(512, 50, tally, stop)) for _ in range(STREAMS)]
    await asyncio.sleep(WARM_UP_SECONDS)
    meter, before = Meter(stack), tally.succeeded
    await asyncio.sleep(seconds)
    done, elapsed, cpu = tally.succeeded - before, meter.seconds, meter.by_kind()
    stop.set()
    await asyncio.gather(*streams)
    if tally.failed:
        raise RuntimeError(f"{tally.failed} jobs failed: {tally.failures[:3]}")
    rows = [
        Row("bulk_rate", done / elapsed, "jobs/s", 3_000, at_least=True),
        Row("bulk_cpu", sum(cpu.values()) / max(1, done) * MILLI, "ms/job", 0.6),
    ]
    return rows + [
        Row(f"bulk_cpu_{kind}", cpu[kind] / max(1, done) * MILLI, "ms/job") for kind in sorted(cpu)
    ]


async def unary(stack: Stack, client: BenchClient, seconds: float) -> list[Row]:
    """One SubmitJob a job, 256 callers, at most 1,024 jobs open; the end of each learnt from the hints."""
    async with Endings(stack) as endings:
        room = asyncio.Semaphore(UNARY_OPEN)
        endings.on_end = room.release
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                await room.acquire()
                await client.submit()

        callers = [asyncio.create_task(caller()) for _ in range(UNARY_CALLERS)]
        await asyncio.sleep(WARM_UP_SECONDS)
        meter, before = Meter(stack), endings.count
        await asyncio.sleep(seconds)
        done, elapsed, cpu = endings.count - before, meter.seconds, meter.by_kind()
        stop.set()
        await asyncio.gather(*callers)
    return [
        Row("unary_rate", done / elapsed, "jobs/s", 1_000, at_least=True),
        Row("unary_cpu", sum(cpu.values()) / max(1, done) * MILLI, "ms/job"),
    ]


def singly(name: str, rate: float, p50: float, p99: float, most_cpu: float | None) -> Workload:
    """Jobs that arrive one by one at a rate, submit to result by SubmitJob and WatchJob."""

    async def run(stack: Stack, client: BenchClient, seconds: float) -> list[Row]:
        for _ in range(20):
            await client.submit_and_watch()
        meter, calls = Meter(stack), []
        for index in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, index / rate - meter.seconds))
            calls.append(asyncio.create_task(client.submit_and_watch()))
        took = await asyncio.gather(*calls)
        cpu = sum(meter.by_kind().values())
        return [
            Row(f"{name}_p50", percentile(took, 0.50) * MILLI, "ms", p50),
            Row(f"{name}_p99", percentile(took, 0.99) * MILLI, "ms", p99),
            Row(f"{name}_cpu", cpu / len(took) * MILLI, "ms/job", most_cpu),
        ]

    return run


async def idle(stack: Stack, client: BenchClient, seconds: float) -> list[Row]:
    """Nothing to do: what the mesh costs then."""
    await asyncio.sleep(WARM_UP_SECONDS)
    meter = Meter(stack)
    await asyncio.sleep(seconds)
    cpu = {kind: spent for kind, spent in meter.by_kind().items() if kind != "client"}
    return [
        Row("idle_cpu", sum(cpu.values()) / meter.seconds * 100, "% of a core", 5),
        Row("idle_memory", resident_mebibytes(stack.pids()), "MiB", 800),
    ]


WORKLOADS: dict[str, Workload] = {
    "idle": idle,
    "low": singly("low", 10, 20, 50, None),
    "steady": singly("steady", 200, 30, 75, 4.0),
    "unary": unary,
    "bulk": bulk,
}


class Endings:
    """Counts jobs that end, by the scheduler's hints."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.count = 0
        self.on_end: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Endings:
        import nats
        from nats.aio.msg import Msg

        from workmesh.scheduler.v1.dispatch_pb2 import JobHints

        async def received(message: Msg) -> None:
            for hint in JobHints.FromString(message.data).hints:
                if hint.state >= JobState.JOB_STATE_SUCCEEDED:
                    self.count += 1
                    self.on_end()

        self._nats = await nats.connect(self._stack.nats_url())
        await self._nats.subscribe("hints.jobs", cb=received)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._nats.close()


async def measure(arguments: argparse.Namespace) -> list[Row]:
    """Start a mesh, run the chosen workloads one after the other, return their rows."""
    here = Path(__file__).parent
    options = StackOptions(
        agents=arguments.agents,
        slots=arguments.slots,
        handlers=("bench.handlers",),
        integrations=here / "integrations.yaml",
        log_level="warning",
    )
    rows: list[Row] = []
    async with Stack(options=options) as stack:
        client = BenchClient(stack.edge_address, stack.token("bench"))
        try:
            for name in arguments.workloads:
                rows += await WORKLOADS[name](stack, client, arguments.seconds)
        finally:
            await client.close()
    return rows


def main() -> int:
    """Parse the command line, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=8.0, help="how long each workload is measured")
    parser.add_argument("--agents", type=int, default=4, help="agent instances")
    parser.add_argument("--slots", type=int, default=128, help="slots an instance")
    add_arguments(parser)
    arguments = parser.parse_args()
    unknown = set(arguments.workloads) - set(WORKLOADS)
    if unknown:
        parser.error(f"unknown workload: {', '.join(sorted(unknown))}")
    return report("workmesh, benchmark job", uvloop.run(measure(arguments)), arguments)


if __name__ == "__main__":
    sys.exit(main())
