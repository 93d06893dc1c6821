"""The ledger and PostgreSQL alone: `python -m bench.ledger`.

A lifecycle is a job created, begun and committed with one step, in batches, with 1 KiB in and out, while one
follower tails the feed. CPU per job counts the ledger and PostgreSQL with its backends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import orjson
import uvloop
from google.protobuf.duration_pb2 import Duration

from bench.client import DOCUMENT
from bench.cpu import cpu_seconds
from bench.rows import Row, add_arguments, percentile, report
from workmesh import errors
from workmesh.chain import digest
from workmesh.common.v1.definition_pb2 import AgentDefinition, CodeHandler
from workmesh.common.v1.job_pb2 import LANE_STANDARD, RetryPolicy
from workmesh.ids import uuid7
from workmesh.ledger.v1 import feed_service_pb2, feed_service_pb2_grpc
from workmesh.ledger.v1 import ledger_write_service_pb2 as pb
from workmesh.ledger.v1.event_pb2 import STEP_KIND_TOOL, Actor
from workmesh.ledger.v1.job_pb2 import JournalStep
from workmesh.ledger.v1.ledger_write_service_pb2_grpc import LedgerWriteServiceStub
from workmesh.local.options import StackOptions
from workmesh.local.stack import Stack
from workmesh.rpc.client import open_channel

Response = TypeVar("Response")

CALL_SECONDS = 30.0
WARM_UP_SECONDS = 2.0
MICRO = 1_000_000.0
BODY = orjson.dumps(DOCUMENT)
RESULT = b'{"accepted":true}'
POLICY = RetryPolicy(
    max_attempts=10, initial_delay=Duration(seconds=1), multiplier=2.0, max_delay=Duration(seconds=60)
)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Tally:
    """What was done so far; seconds of each call by kind."""

    jobs: int = 0
    events: int = 0
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"create": [], "begin": [], "commit": []})


def new_jobs(count: int) -> list[pb.NewJob]:
    """Return jobs to create."""
    return [
        pb.NewJob(
            job_id=uuid7(),
            client_id="bench",
            request_id=uuid7(),
            request_digest=digest(BODY),
            agent="bench",
            version=1,
            pool="default",
            lane=LANE_STANDARD,
            fairness_key="bench",
            input=BODY,
            retry_policy=POLICY,
            traceparent=TRACEPARENT,
        )
        for _ in range(count)
    ]


def commits_of(begun: pb.BeginAttemptsResponse) -> list[pb.CommitAttempt]:
    """Return the commits of granted attempts."""
    grants = [each.grant.job for each in begun.results]
    step = JournalStep(
        step="1",
        kind=STEP_KIND_TOOL,
        name="noop.echo",
        arguments_digest=digest(b"{}"),
        result=RESULT,
        start_time_micros=1,
        end_time_micros=2,
    )
    return [
        pb.CommitAttempt(attempt=pb.AttemptRef(job_id=job.job_id, epoch=job.epoch), output=BODY, steps=[step])
        for job in grants
    ]


async def live(address: str, batch: int, tally: Tally, stop: asyncio.Event) -> None:
    """Take batches of jobs through their lives, one batch after another."""
    async with open_channel(address) as channel:
        ledger = LedgerWriteServiceStub(channel)
        while not stop.is_set():
            jobs = new_jobs(batch)
            create = pb.CreateJobsRequest(jobs=jobs, instance="bench")
            created = await _timed(ledger.CreateJobs(create, timeout=CALL_SECONDS), tally, "create")
            offers = [
                pb.BeginAttempt(job_id=each.job_id, dispatch=1, lease_id=uuid7()) for each in created.results
            ]
            begin = pb.BeginAttemptsRequest(attempts=offers, instance="bench")
            begun = await _timed(ledger.BeginAttempts(begin, timeout=CALL_SECONDS), tally, "begin")
            commit = pb.CommitAttemptsRequest(attempts=commits_of(begun), instance="bench")
            done = await _timed(ledger.CommitAttempts(commit, timeout=CALL_SECONDS), tally, "commit")
            for each in done.results:
                if each.status.code:
                    raise errors.from_status(each.status)
            tally.jobs += batch


async def _timed(call: Awaitable[Response], tally: Tally, kind: str) -> Response:
    start = time.perf_counter()
    response = await call
    tally.seconds[kind].append(time.perf_counter() - start)
    return response


async def follow(address: str, tally: Tally) -> None:
    """Tail the feed."""
    async with open_channel(address) as channel:
        feed = feed_service_pb2_grpc.FeedServiceStub(channel)
        async for part in feed.TailBlocks(feed_service_pb2.TailBlocksRequest()):
            tally.events += sum(block.event_count for block in part.blocks)


async def apply_definition(address: str) -> None:
    """Store the definition that the jobs are pinned to."""
    definition = AgentDefinition(agent="bench", code=CodeHandler(handler="bench"), tools=["noop.echo"])
    request = pb.ApplyDefinitionsRequest(
        definitions=[definition], actor=Actor(kind=Actor.KIND_SERVICE, id="bench")
    )
    async with open_channel(address) as channel:
        await LedgerWriteServiceStub(channel).ApplyDefinitions(request, timeout=CALL_SECONDS)


async def measure(stack: Stack, arguments: argparse.Namespace) -> list[Row]:
    """Run the load and return what it took."""
    address, tally, stop = stack.ledger_address, Tally(), asyncio.Event()
    await apply_definition(address)
    following = asyncio.create_task(follow(address, tally))
    workers = [
        asyncio.create_task(live(address, arguments.batch, tally, stop)) for _ in range(arguments.workers)
    ]
    await asyncio.sleep(WARM_UP_SECONDS)
    pids = stack.pids()
    before, jobs, start = cpu_seconds(pids), tally.jobs, time.perf_counter()
    for each in tally.seconds.values():
        each.clear()
    await asyncio.sleep(arguments.seconds)
    after, done, elapsed = cpu_seconds(pids), tally.jobs - jobs, time.perf_counter() - start
    latencies = {kind: percentile(each, 0.5) for kind, each in tally.seconds.items()}
    stop.set()
    await asyncio.gather(*workers)
    following.cancel()
    cpu = {kind: (after[kind] - before[kind]) / max(1, done) * MICRO for kind in ("ledger", "postgres")}
    return [
        Row("lifecycle_rate", done / elapsed, "jobs/s", 5_000, at_least=True),
        Row("lifecycle_cpu", sum(cpu.values()), "µs/job", 200),
        *(Row(f"cpu_{kind}", value, "µs/job") for kind, value in cpu.items()),
        Row("cpu_client", (after["client"] - before["client"]) / max(1, done) * MICRO, "µs/job"),
        *(Row(f"{kind}_p50", value * 1_000, "ms") for kind, value in latencies.items()),
    ]


async def main(arguments: argparse.Namespace) -> int:
    """Start PostgreSQL and a ledger, measure, report."""
    options = StackOptions(environment={"ledger": {"WORKMESH_LEDGER_WRITERS": str(arguments.writers)}})
    async with Stack(only=("postgres", "ledger"), options=options) as stack:
        rows = await measure(stack, arguments)
    return report("Ledger and PostgreSQL", rows, arguments)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure")
    parser.add_argument("--batch", type=int, default=128, help="jobs a call")
    parser.add_argument("--workers", type=int, default=4, help="calls under way at one time")
    parser.add_argument("--writers", type=int, default=2, help="the ledger's writers")
    sys.exit(uvloop.run(main(parser.parse_args())))
