"""Finding and closing connected sockets of a netns: sock_diag messages, packed by hand (linux/inet_diag.h).

SOCK_DESTROY ends a socket as if its peer had: reads and writes fail with ECONNABORTED, a TCP peer gets a reset.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from datapath.entries import protocol_number
from datapath.rtsocket import NetlinkError

SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3

_NETLINK_SOCK_DIAG = 4
_RECEIVE_BYTES = 65536
_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_REQUEST = Struct("=BBxxI48s")  # inet_diag_req_v2: family, protocol, states, sockid
_MESSAGE = Struct("=BBxx48s20x")  # inet_diag_msg: family, state, sockid
_SOCKID = Struct("=2s2s16s16sIQ")  # sport, dport, src, dst, ifindex, cookie
_ERRNO = Struct("=i")
_NOBODY = bytes(48)
_V4_MAPPED = bytes(10) + b"\xff\xff"

# States of a socket that has a peer (net/tcp_states.h): not TIME_WAIT (no socket any more), CLOSE, LISTEN.
_ESTABLISHED = 1
_WITH_PEER = sum(1 << state for state in (_ESTABLISHED, 2, 3, 4, 5, 8, 9, 11))


@dataclass(frozen=True, slots=True)
class ConnectedSocket:
    """A socket with a peer: `remote` as in `struct ip` (16 bytes), `sockid` what names the socket to the kernel."""

    family: int
    protocol: str
    cookie: int
    remote: bytes
    port: int
    sockid: bytes


def dump_request(family: int, protocol: str) -> bytes:
    """Ask for all sockets with a peer."""
    body = _REQUEST.pack(family, protocol_number(protocol), _WITH_PEER, _NOBODY)
    return _HEADER.pack(_HEADER.size + len(body), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body


def destroy_request(found: ConnectedSocket) -> bytes:
    """Close this socket; the kernel compares the cookie."""
    body = _REQUEST.pack(found.family, protocol_number(found.protocol), _WITH_PEER, found.sockid)
    return _HEADER.pack(_HEADER.size + len(body), SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body


def messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of every message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            return
        yield kind, datagram[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def parse(body: bytes, protocol: str) -> ConnectedSocket:
    """Read an inet_diag_msg."""
    family, _, sockid = _MESSAGE.unpack_from(body)
    _, dport, _, dst, _, cookie = _SOCKID.unpack(sockid)
    remote = dst if family == socket.AF_INET6 else _V4_MAPPED + dst[:4]
    return ConnectedSocket(family, protocol, cookie, remote, int.from_bytes(dport, "big"), sockid)


class DiagSocket:
    """A sock_diag socket; it stays in the netns of the thread that opened it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)

    def __enter__(self) -> DiagSocket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def connected(self, protocol: str) -> list[ConnectedSocket]:
        """All sockets of a protocol ("TCP", "UDP") that have a peer, of both families. Raises NetlinkError, OSError."""
        found: list[ConnectedSocket] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            self._socket.send(dump_request(family, protocol))
            bodies = self._answer(f"list {protocol} sockets")
            found += [parse(body, protocol) for body in bodies]
        return found

    def destroy(self, found: ConnectedSocket) -> bool:
        """Close the socket; False: it is gone already. Raises NetlinkError (EOPNOTSUPP: the kernel cannot), OSError."""
        self._socket.send(destroy_request(found))
        try:
            self._answer(f"close a {found.protocol} socket")
        except NetlinkError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return False
            raise
        return True

    def _answer(self, step: str) -> list[bytes]:
        """The bodies of the answer to one request. The kernel has it ready: receiving does not wait."""
        bodies: list[bytes] = []
        while True:
            for kind, body in messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind not in (NLMSG_ERROR, NLMSG_DONE):
                    bodies.append(body)
                    continue
                number = -_ERRNO.unpack_from(body)[0] if len(body) >= _ERRNO.size else 0
                if number:
                    raise NetlinkError(step, number)
                return bodies
