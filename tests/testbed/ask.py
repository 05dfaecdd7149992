"""Calls from a pod to an echo server (tests/testbed/echo.py): who answers, and what the pod's socket sees.

Every call makes its socket in the pod's namespace and demands what a pod must see: the peer is who was called.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.testbed import netns
from tests.testbed.echo import INVERTED, Heard

TIMEOUT_S = 5.0


class NotAsCalled(AssertionError):
    """A socket shows another peer than the one that was called, or the content came back changed."""


def new_socket(where: str, address: str, kind: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A socket of a namespace, of the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = netns.enter(where, lambda: socket.socket(family, kind))
    made.settimeout(timeout_s)
    return made


def connect(where: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A TCP connection."""
    stream = new_socket(where, address, socket.SOCK_STREAM, timeout_s)
    try:
        stream.connect((address, port))
        _must_be(stream.getpeername(), address, port)
    except BaseException:
        stream.close()
        raise
    return stream


def greeting(stream: socket.socket) -> Heard:
    """The line that the server of a connection says first."""
    line = b""
    while not line.endswith(b"\n"):
        part = stream.recv(1)
        if not part:
            raise ConnectionResetError("closed before the server said who it is")
        line += part
    return Heard.of(line)


def exchange(stream: socket.socket, content: bytes) -> None:
    """Send while it comes back."""
    sender = threading.Thread(target=_send, args=(stream, content))
    sender.start()
    received = bytearray()
    try:
        while len(received) < len(content):
            part = stream.recv(262144)
            if not part:
                raise ConnectionResetError(f"closed after {len(received)} bytes")
            received += part
    finally:
        if len(received) < len(content):
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        sender.join()
    if received != content:
        raise NotAsCalled("the content came back changed")


def _send(stream: socket.socket, content: bytes) -> None:
    with contextlib.suppress(OSError):  # the receiver sees it, too
        stream.sendall(content)


def tcp(where: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> Heard:
    """Who answers a new connection."""
    with connect(where, address, port, timeout_s) as stream:
        return greeting(stream)


@contextlib.contextmanager
def datagrams(
    where: str, address: str, port: int, *, connected: bool, source_port: int = 0, timeout_s: float = TIMEOUT_S
) -> Iterator[socket.socket]:
    """A UDP socket for `answer`; from `source_port` if given."""
    with new_socket(where, address, socket.SOCK_DGRAM, timeout_s) as one:
        if source_port:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", source_port))
        if connected:
            one.connect((address, port))
            _must_be(one.getpeername(), address, port)
        yield one


def answer(one: socket.socket, content: bytes, called: tuple[str, int] | None = None) -> bytes:
    """The answer to a datagram, which must come from who was called (None: the socket is connected)."""
    if called is None:
        one.send(content)
        data, source = one.recvfrom(65536)
        _must_be(source, *one.getpeername()[:2])
    else:
        one.sendto(content, called)
        data, source = one.recvfrom(65536)
        _must_be(source, *called)
    return data


def inverted(one: socket.socket, content: bytes, called: tuple[str, int] | None = None) -> None:
    """A datagram and its answer, which must be the content inverted."""
    if answer(one, content, called) != content.translate(INVERTED):
        raise NotAsCalled(f"a datagram of {len(content)} bytes came back changed")


def udp(where: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> Heard:
    """Who answers a datagram of a new, connected socket."""
    with datagrams(where, address, port, connected=True, timeout_s=timeout_s) as one:
        return Heard.of(answer(one, b"who"))


def _must_be(peer: tuple[str, int], address: str, port: int) -> None:
    if peer[:2] != (address, port):
        raise NotAsCalled(f"the peer is {peer[:2]}, called was {(address, port)}")
