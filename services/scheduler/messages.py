"""Messages of the queue: what the scheduler publishes and what it holds."""

from __future__ import annotations

from typing import Final, NamedTuple

from workmesh.scheduler.v1.dispatch_pb2 import Dispatch

MOVES_HEADER: Final = "Workmesh-Moves"
_MOVES_LINE: Final = f"\r\n{MOVES_HEADER}: ".encode()


class Publication(NamedTuple):
    """A message to store: headers are lines of `Name: value`, each ending in CRLF."""

    subject: str
    payload: bytes
    headers: bytes = b""


class Message:
    """A delivered message that waits for its acknowledgement."""

    __slots__ = ("dispatch", "lane", "moves", "reply", "sequence")

    def __init__(self, dispatch: Dispatch, lane: int, reply: bytes, sequence: bytes, moves: int = 0) -> None:
        self.dispatch = dispatch
        self.lane = lane
        self.reply = reply
        """Where to acknowledge; empty when the stream it came from is gone."""
        self.sequence = sequence
        self.moves = moves
        """How often it was put aside in a row."""

    @property
    def key(self) -> tuple[str, int]:
        """Job and dispatch: equal for duplicates."""
        return self.dispatch.job_id, self.dispatch.dispatch


def parse_delivery(reply: bytes) -> tuple[bytes, bool]:
    """Return a delivered message's sequence number in the stream, as text, and whether it came before.

    Reply subjects read `$JS.ACK.<stream>.<consumer>.<count>.<sequence>.<delivery>.<time>.<pending>` (ADR-15);
    the longer form has domain and account before the stream and a random token at its end. ValueError for
    anything else.
    """
    tokens = reply.split(b".")
    if len(tokens) == 9:
        return tokens[5], tokens[4] != b"1"
    if len(tokens) >= 11:
        return tokens[7], tokens[6] != b"1"
    raise ValueError(f"{reply!r} is no acknowledgement subject")


def parse_moves(headers: bytes | None) -> int:
    """Return how often a message was put aside; 0 without the header."""
    if not headers:
        return 0
    _, found, rest = headers.partition(_MOVES_LINE)
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


def parse_status(headers: bytes) -> int:
    """Return the status of a message without payload (`NATS/1.0 404 No Messages`); 0 if it has none."""
    code = headers[9:12]
    return int(code) if code.isdigit() else 0


def parse_pending(headers: bytes) -> int:
    """Return how many messages of its credit an ended pull did not bring; 0 if that is not said."""
    _, found, rest = headers.partition(b"Nats-Pending-Messages: ")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0
