"""What a run consists of: the jobs, when each booking comes, what is killed when. All from the seed."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

import orjson

from examples.freight.evidence import REFERENCE_LABEL
from examples.freight.generator import Case, Generator
from workmesh.gateway.v1.job_pb2 import JobSubmission
from workmesh.payload import json_to_struct

AGENTS: Final = 4
SLOTS: Final = 4
LEASE_SECONDS: Final = 3.0
#: Shares of all jobs done at which processes are killed.
KILL_SHARES: Final = (0.1, 0.3, 0.5)
KILLED_AGENTS: Final = 2
#: Bookings come one by one while between these shares of the documents are done: documents are queued then.
BOOKING_SHARES: Final = (0.05, 0.65)
MOST_JOBS: Final = 100_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment may choose: `N` documents (a tenth as many bookings) and the `SEED`."""

    documents: int = 400
    seed: int = 1

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Reads N and SEED; raises ValueError with what is wrong."""
        documents = _number(environ, "N", cls().documents)
        if not 1 <= documents <= MOST_JOBS:
            raise ValueError(f"N is a number of documents from 1 to {MOST_JOBS}")
        return cls(documents, _number(environ, "SEED", cls().seed))


@dataclass(frozen=True, slots=True)
class Kill:
    """At this share of all jobs done these processes get SIGKILL."""

    share: float
    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """The plan of a run. `booking_shares[i]` is the share of documents done at which booking i comes."""

    documents: tuple[Case, ...]
    bookings: tuple[Case, ...]
    booking_shares: tuple[float, ...]
    kills: tuple[Kill, ...]

    @property
    def cases(self) -> tuple[Case, ...]:
        return self.documents + self.bookings


def plan(settings: Settings) -> Scenario:
    """Makes the plan of a run."""
    generator = Generator(settings.seed)
    documents = tuple(generator.documents(settings.documents))
    bookings = tuple(generator.bookings(max(1, settings.documents // 10)))
    first, last = BOOKING_SHARES
    shares = tuple(first + (last - first) * index / len(bookings) for index in range(len(bookings)))
    random = Random(f"kills/{settings.seed}")
    return Scenario(documents, bookings, shares, tuple(_kill(share, random) for share in KILL_SHARES))


def submission(case: Case, seed: int) -> JobSubmission:
    """Returns the job to submit for a case; the same case and seed have the same request_id."""
    bits = Random(f"{seed}/{case.agent}/{case.reference}").getrandbits(128)
    request_id = str(uuid.UUID(int=bits, version=4))
    job = JobSubmission(request_id=request_id, agent=case.agent, labels={REFERENCE_LABEL: case.reference})
    json_to_struct(orjson.dumps(case.input), job.input)
    return job


def _kill(share: float, random: Random) -> Kill:
    agents = random.sample([f"agent-{number}" for number in range(1, AGENTS + 1)], KILLED_AGENTS)
    return Kill(share, (*sorted(agents), "scheduler"))


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ValueError(f"{name} is a whole number, not {text!r}") from None
