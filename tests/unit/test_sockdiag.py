"""sock_diag messages: what is sent is what pyroute2 reads, what the kernel sends is read."""

from __future__ import annotations

import socket
import struct

import pytest
from pyroute2.netlink.diag import inet_diag_req

from datapath import sockdiag
from datapath.entries import pack_ip
from datapath.sockdiag import ConnectedSocket

COOKIE = 0x1122334455667788


def sockid(family: int, remote: str) -> bytes:
    """An inet_diag_sockid: port 33000 to port 8080."""
    local = {socket.AF_INET: "10.7.0.20", socket.AF_INET6: "fd07::20"}[socket.AddressFamily(family)]
    sides = b"".join(socket.inet_pton(family, text).ljust(16, b"\0") for text in (local, remote))
    return struct.pack(">HH", 33000, 8080) + sides + struct.pack("=IQ", 7, COOKIE)


def message(family: int, remote: str) -> bytes:
    """An inet_diag_msg in state ESTABLISHED."""
    return struct.pack("=BBBB", family, 1, 0, 0) + sockid(family, remote) + struct.pack("=IIIII", 0, 1, 2, 3, 4)


CASES = [
    (socket.AF_INET, "10.7.0.21", "10.7.0.21"),
    (socket.AF_INET6, "fd07::21", "fd07::21"),
    (socket.AF_INET6, "::ffff:10.7.0.21", "10.7.0.21"),
]


@pytest.mark.parametrize(("family", "remote", "meant"), CASES)
def test_a_socket_is_read(family: int, remote: str, meant: str) -> None:
    whole = sockid(family, remote)
    assert sockdiag.parse(message(family, remote) + b"\x05\x00\x08\x00\0\0\0\0", "UDP") == ConnectedSocket(
        family, "UDP", COOKIE, pack_ip(meant), 8080, whole
    )


def decoded(request: bytes) -> inet_diag_req:
    """A request as pyroute2 reads it."""
    read = inet_diag_req(request)
    read.decode()
    return read


@pytest.mark.parametrize("protocol", [("TCP", 6), ("UDP", 17)])
def test_a_dump_asks_for_sockets_with_a_peer(protocol: tuple[str, int]) -> None:
    """Established and every state on the way to and from there; neither listeners nor those without a peer."""
    request = decoded(sockdiag.dump_request(socket.AF_INET6, protocol[0]))
    assert (request["header"]["type"], request["header"]["flags"]) == (20, 0x301)
    assert (request["sdiag_family"], request["sdiag_protocol"]) == (socket.AF_INET6, protocol[1])
    states = {number for number in range(32) if request["idiag_states"] >> number & 1}
    assert states == {1, 2, 3, 4, 5, 8, 9, 11}


def test_destroy_names_the_socket() -> None:
    """By its whole identity: ports, addresses, interface and cookie as the kernel gave them."""
    seen = sockdiag.parse(message(socket.AF_INET, "10.7.0.21"), "TCP")
    raw = sockdiag.destroy_request(seen)
    request = decoded(raw)
    assert (request["header"]["type"], request["header"]["flags"], request["header"]["length"]) == (21, 0x5, 72)
    assert (request["sdiag_family"], request["sdiag_protocol"]) == (socket.AF_INET, 6)
    assert raw[24:] == sockid(socket.AF_INET, "10.7.0.21")


def test_messages_of_a_datagram() -> None:
    """Several in one datagram, the last not padded; what is cut short or nonsense ends the walk."""
    one = struct.pack("=IHHII", 19, 20, 0, 1, 0) + b"abc\0"
    two = struct.pack("=IHHII", 18, 3, 0, 1, 0) + b"de"
    assert list(sockdiag.messages(one + two)) == [(20, b"abc"), (3, b"de")]
    assert list(sockdiag.messages(struct.pack("=IHHII", 0, 20, 0, 1, 0))) == []
