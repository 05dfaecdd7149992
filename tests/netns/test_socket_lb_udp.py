"""Pods' datagrams balanced in connect and sendmsg: one socket, one backend, answers under the Service's name."""

from __future__ import annotations

import ctypes
import errno
import socket
from contextlib import suppress

import pytest

from datapath.abi import Verdict
from datapath.table import Number
from tests.netns.socket_node import (
    CLIENT,
    DGRAM,
    ONE,
    PORT,
    TARGET_PORT,
    TRANSLATIONS,
    TWO,
    SocketNode,
    Way,
    address,
    asked,
    connected,
    direct_name,
)


@pytest.fixture
def node(balanced_node: SocketNode) -> SocketNode:
    """The node without Services."""
    balanced_node.empty()
    return balanced_node


def test_udp_connected(node: SocketNode, way: Way):
    node.serve(way.vip, "UDP", [ONE])

    def call() -> tuple[bytes, tuple[str, int]]:
        with connected(node, way, DGRAM) as sock:
            assert sock.getpeername()[:2] == (way.named, PORT)
            sock.send(b"who")
            data, source = sock.recvfrom(2048)
            return data, source[:2]

    (data, source), counts = node.counted(call)
    assert data.decode().strip() == f"one {address(CLIENT, way.vip)}"
    assert source == (way.named, PORT)
    assert counts[Verdict.VERDICT_SOCKET] == 1
    assert not TRANSLATIONS & counts.keys()


def test_udp_unconnected(node: SocketNode, way: Way):
    """The answer comes from the VIP; the socket stays with its backend, others choose for themselves."""
    node.serve(way.vip, "UDP", [ONE, TWO])

    def call() -> set[str]:
        names = set()
        for _ in range(30):
            with node.socket(way, DGRAM) as sock:
                first, source = asked(sock, way)
                assert source == (way.named, PORT)
                assert {asked(sock, way) for _ in range(3)} == {(first, source)}
                names.add(first.split()[0])
        return names

    names, counts = node.counted(call)
    assert names == {ONE, TWO}
    assert counts[Verdict.VERDICT_SOCKET] == counts[Verdict.VERDICT_SOCKET_ANSWER] == 120
    assert not TRANSLATIONS & counts.keys()
    assert node.maps.flow_counters.get(Number(1)).opened == 30  # type: ignore[union-attr]


def test_a_connected_socket_names_its_service_again(node: SocketNode, way: Way):
    """sendto() with the address it is connected to: the same backend, or the answer would not be let in."""
    node.serve(way.vip, "UDP", [ONE, TWO])
    for _ in range(20):
        with connected(node, way, DGRAM) as sock:
            assert asked(sock, way)[1] == (way.named, PORT)


@pytest.mark.parametrize("end", ["removed", "draining"])
def test_datagrams_leave_a_backend_that_is_gone(node: SocketNode, way: Way, end: str):
    node.serve(way.vip, "UDP", [ONE])
    with node.socket(way, DGRAM) as sock:
        assert asked(sock, way)[0].startswith(ONE)
        node.serve(way.vip, "UDP", [TWO])
        if end == "draining":
            node.drain(way.vip, ONE)
        (told, source), counts = node.counted(lambda: asked(sock, way))
    assert told.startswith(TWO)
    assert source == (way.named, PORT)
    assert counts[Verdict.EVENT_FLOW_MOVED] == 1


def test_datagrams_stay_while_the_service_is_empty(node: SocketNode, way: Way):
    """Without a backend the datagram is tc's to refuse; with the next backend the same socket goes on."""
    node.serve(way.vip, "UDP", [ONE])
    with node.socket(way, DGRAM) as sock:
        asked(sock, way)
        node.serve(way.vip, "UDP", [])
        _, counts = node.counted(lambda: sock.sendto(b"who", (way.named, PORT)))
        assert Verdict.VERDICT_SOCKET not in counts
        node.serve(way.vip, "UDP", [TWO])
        sock.setblocking(False)
        with suppress(OSError):  # takes the ICMP error, where one was noted
            sock.recv(100)
        sock.settimeout(5)
        assert asked(sock, way)[0].startswith(TWO)


def unconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC), which Python's socket cannot say."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), bytes(28), 28) == 0, ctypes.get_errno()


def test_reconnected(node: SocketNode, way: Way):
    """One UDP socket: Service, its backend by its own name, dissolved, another Service with the same backend."""
    node.serve(way.vip, "UDP", [ONE])
    node.serve(way.vip, "UDP", [ONE], number=2, port=81)
    with connected(node, way, DGRAM) as sock:
        assert sock.getpeername()[:2] == (way.named, PORT)
        sock.connect((direct_name(way, ONE), TARGET_PORT))
        assert sock.getpeername()[:2] == (direct_name(way, ONE), TARGET_PORT)
        sock.connect((way.named, 81))
        assert sock.getpeername()[:2] == (way.named, 81)
        unconnect(sock)
        with pytest.raises(OSError) as caught:
            sock.getpeername()
        assert caught.value.errno == errno.ENOTCONN
        assert asked(sock, way)[1] == (way.named, PORT)


def test_a_backend_called_by_its_own_name(node: SocketNode, way: Way):
    """One unconnected socket: the answer has the name that was used last."""
    node.serve(way.vip, "UDP", [ONE])
    there = (direct_name(way, ONE), TARGET_PORT)
    with node.socket(way, DGRAM) as sock:
        for _ in range(2):
            assert asked(sock, way)[1] == (way.named, PORT)
            sock.sendto(b"who", there)
            assert sock.recvfrom(2048)[1][:2] == there
