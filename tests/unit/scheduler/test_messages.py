"""What is read from messages and put into subjects."""

from __future__ import annotations

import pytest

from services.scheduler.messages import parse_delivery, parse_moves, parse_pending, parse_status
from services.scheduler.puller import PullTiming
from services.scheduler.subjects import consumer_lane, consumer_name, job_subject, lane_index
from services.scheduler.wire import frame
from workmesh.common.v1.job_pb2 import LANE_CRITICAL, LANE_UNSPECIFIED


@pytest.mark.parametrize(
    "reply",
    [
        b"$JS.ACK.JOBS.default_batch_1a2b.2.17.5.1795352041851200421.9",
        b"$JS.ACK._.hash.JOBS.default_batch_1a2b.2.17.5.1795352041851200421.9.random",
    ],
)
def test_both_forms_of_an_acknowledgement_subject_are_read(reply: bytes) -> None:
    assert parse_delivery(reply) == (b"17", True)
    assert parse_delivery(reply.replace(b".2.17.", b".1.17.")) == (b"17", False)


def test_what_is_no_acknowledgement_subject_is_refused() -> None:
    with pytest.raises(ValueError, match="acknowledgement"):
        parse_delivery(b"_INBOX.abc")


@pytest.mark.parametrize(
    ("headers", "moves"),
    [
        (None, 0),
        (b"NATS/1.0\r\nNats-Scheduler: delay.x.1\r\n\r\n", 0),
        (b"NATS/1.0\r\nNats-Scheduler: delay.x.1\r\nWorkmesh-Moves: 12\r\n\r\n", 12),
    ],
)
def test_how_often_a_message_was_put_aside_is_read_from_its_headers(
    headers: bytes | None, moves: int
) -> None:
    assert parse_moves(headers) == moves


def test_statuses_are_read() -> None:
    assert parse_status(b"NATS/1.0 404 No Messages\r\n\r\n") == 404
    assert parse_status(b"NATS/1.0 503\r\n\r\n") == 503
    assert parse_status(b"NATS/1.0\r\nA: b\r\n\r\n") == 0
    assert parse_status(b"") == 0


def test_what_an_ended_pull_did_not_bring_is_read() -> None:
    ended = b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\nNats-Pending-Bytes: 0\r\n\r\n"
    assert parse_pending(ended) == 7
    assert parse_pending(b"NATS/1.0 404 No Messages\r\n\r\n") == 0


def test_frames_are_those_of_the_client_protocol() -> None:
    assert frame("a.b", b"xyz") == b"PUB a.b  3\r\nxyz\r\n"
    assert frame("a.b", b"", "r.1") == b"PUB a.b r.1 0\r\n\r\n"
    assert frame("a", b"xyz", "r", b"K: v\r\n") == b"HPUB a r 18 21\r\nNATS/1.0\r\nK: v\r\n\r\nxyz\r\n"


def test_a_lane_has_one_subject_and_one_consumer_a_generation() -> None:
    assert job_subject("default", LANE_CRITICAL) == "jobs.default.critical.0"
    name = consumer_name("my-pool", 2, "1a2b3c")
    assert name == "my-pool_batch_1a2b3c"
    assert consumer_lane(name) == ("my-pool", 2)
    assert consumer_name("my-pool", 2, "other") != name


@pytest.mark.parametrize("pool", ["", "a.b", "*", "a b", "A"])
def test_a_pool_that_cannot_be_a_token_is_refused(pool: str) -> None:
    with pytest.raises(ValueError, match="pool"):
        job_subject(pool, LANE_CRITICAL)


def test_a_lane_that_is_never_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="tuple"):
        lane_index(LANE_UNSPECIFIED)


def test_a_pull_whose_heartbeat_the_server_would_refuse_is_refused_here() -> None:
    with pytest.raises(ValueError, match="half"):
        PullTiming(wait=1.0, heartbeat=0.6)
