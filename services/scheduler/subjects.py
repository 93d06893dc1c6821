"""Names in NATS: the stream, its subjects and consumers, and the broadcasts."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from workmesh.common.v1.job_pb2 import LANE_BATCH, LANE_CRITICAL, LANE_STANDARD, Lane
from workmesh.ids import is_name, is_uuid

STREAM: Final = "JOBS"
HINTS: Final = "hints.jobs"
CANCELS: Final = "hints.cancels"

LANES: Final = (LANE_CRITICAL, LANE_STANDARD, LANE_BATCH)
"""Most urgent first; everywhere else a lane is its index in this tuple."""

LANE_NAMES: Final = ("critical", "standard", "batch")
SHARD: Final = "0"


def lane_index(lane: Lane.ValueType) -> int:
    """Return the index of a lane in LANES; ValueError for one that is never stored."""
    return LANES.index(lane)


@lru_cache(maxsize=4_096)
def job_subject(pool: str, lane: Lane.ValueType) -> str:
    """Return `jobs.<pool>.<lane>.<shard>`; ValueError for what cannot be a token of a subject."""
    if not is_name(pool):
        raise ValueError(f"{pool!r} is no name of a pool")
    return f"jobs.{pool}.{LANE_NAMES[lane_index(lane)]}.{SHARD}"


def lane_filter(pool: str, lane: int) -> str:
    """Return the subjects of all shards of a pool's lane."""
    return f"jobs.{pool}.{LANE_NAMES[lane]}.>"


def delay_subject(job_id: str, dispatch: int) -> str:
    """Return the subject of a job's scheduled message: a second message replaces the first."""
    if not is_uuid(job_id):
        raise ValueError(f"{job_id!r} is no job id")
    return f"delay.{job_id}.{dispatch}"


def consumer_name(pool: str, lane: int, generation: str) -> str:
    """Return the name of a lane's consumer.

    It carries the stream's generation: an acknowledgement names consumer and sequence only, and one that
    outlives the stream must not remove the message that has its number in the next one.
    """
    return f"{pool}_{LANE_NAMES[lane]}_{generation}"


def consumer_lane(name: str) -> tuple[str, int]:
    """Return pool and lane of a consumer's name; ValueError if it is not one of ours."""
    pool, lane, _ = name.rsplit("_", 2)
    return pool, LANE_NAMES.index(lane)
