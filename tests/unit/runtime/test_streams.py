from __future__ import annotations

import asyncio

import pytest

from workmesh.errors import MeshError
from workmesh.rpc.streams import StreamSender


class Stream:
    """A stream that notices when two tasks write at a time."""

    def __init__(self) -> None:
        self.messages: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.wrote = asyncio.Event()
        self._writing = False

    async def write(self, message: list[int]) -> None:
        assert not self._writing
        self._writing = True
        self.wrote.set()
        await self.gate.wait()
        self.messages.append(message)
        self._writing = False


def sender(**options: int) -> StreamSender[int, list[int]]:
    return StreamSender(list, name="test", **options)  # type: ignore[arg-type]


async def test_what_one_loop_turn_puts_is_one_message() -> None:
    stream, out = Stream(), sender()
    writer = asyncio.create_task(out.run(stream.write))

    async def put(item: int) -> None:
        out.put(item)

    await asyncio.gather(*(put(item) for item in range(20)))
    out.close()
    await writer
    assert stream.messages == [list(range(20))]


async def test_what_is_put_during_a_write_is_the_next_message() -> None:
    stream, out = Stream(), sender()
    stream.gate.clear()
    writer = asyncio.create_task(out.run(stream.write))
    out.put(1)
    await stream.wrote.wait()
    out.put(2)
    out.put(3)
    out.close()
    stream.gate.set()
    await writer
    assert stream.messages == [[1], [2, 3]]


async def test_messages_are_bounded_by_items_and_by_bytes() -> None:
    stream, out = Stream(), sender(max_items=2)
    for item in range(5):
        out.put(item)
    out.close()
    await out.run(stream.write)
    assert stream.messages == [[0, 1], [2, 3], [4]]

    measured: StreamSender[int, list[int]] = StreamSender(
        list, name="m", max_bytes=10, size_of=lambda item: item
    )
    for item in (6, 4, 1, 50, 9):
        measured.put(item)
    measured.close()
    assert [message async for message in measured.messages()] == [[6, 4], [1], [50], [9]]


async def test_a_full_queue_refuses_put_and_holds_send_back() -> None:
    stream, out = Stream(), sender(max_queued=2)
    out.put(1)
    out.put(2)
    with pytest.raises(MeshError, match="QUEUE_FULL"):
        out.put(3)
    held = asyncio.create_task(out.send(3))
    await asyncio.sleep(0)
    assert not held.done()
    writer = asyncio.create_task(out.run(stream.write))
    await held
    out.close()
    await writer
    assert stream.messages == [[1, 2], [3]]


async def test_a_failing_write_ends_the_writer_and_closes_the_sender() -> None:
    out = sender()

    async def write(message: list[int]) -> None:
        raise ConnectionError("gone")

    out.put(1)
    with pytest.raises(ConnectionError):
        await out.run(write)
    with pytest.raises(MeshError, match="DRAINING"):
        out.put(2)
    with pytest.raises(MeshError, match="DRAINING"):
        await out.send(2)


async def test_senders_held_back_are_released_when_the_stream_ends() -> None:
    out = sender(max_queued=1)
    out.put(1)
    held = asyncio.create_task(out.send(2))
    await asyncio.sleep(0)
    out.close()
    with pytest.raises(MeshError, match="DRAINING"):
        await held
