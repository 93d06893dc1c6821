from __future__ import annotations

import socket
from pathlib import Path

from workmesh.local.ports import FIRST, LAST, PortPicker, is_free


def listening() -> socket.socket:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    return server


def test_a_taken_port_is_not_free() -> None:
    with listening() as server:
        assert not is_free(server.getsockname()[1])


def test_no_port_is_handed_out_twice() -> None:
    picker = PortPicker()
    ports = [picker.pick() for _ in range(200)]
    assert len(set(ports)) == 200
    assert all(FIRST <= port < LAST for port in ports)


def test_the_preferred_port_is_taken_when_it_is_free(tmp_path: Path) -> None:
    with listening() as server:
        taken = server.getsockname()[1]
        assert PortPicker().prefer(taken, tmp_path) != taken
    first, second = PortPicker(), PortPicker()
    assert first.prefer(taken, tmp_path) == taken
    first.close()
    assert second.prefer(taken, tmp_path) == taken
    second.close()


def test_two_stacks_never_settle_on_the_same_preferred_port(tmp_path: Path) -> None:
    with listening() as server:
        port = server.getsockname()[1]
    first, second = PortPicker(), PortPicker()
    assert first.prefer(port, tmp_path) == port
    assert second.prefer(port, tmp_path) != port
    first.close()
