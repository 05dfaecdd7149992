"""Servers and clients in namespaces without processes: a socket stays in the namespace in which it was made."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from tests.testbed import netns

TIMEOUT_S = 5.0


@contextmanager
def named_server(where: str, name: str, port: int) -> Iterator[None]:
    """TCP: says `name` in a line, then echoes until the client closes. UDP: answers every datagram with `name`."""

    def listen() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind(("0.0.0.0", port))
        return socket.create_server(("0.0.0.0", port), backlog=128), datagrams

    streams, datagrams = netns.enter(where, listen)

    threads = [
        threading.Thread(target=_accept, args=(streams, name)),
        threading.Thread(target=_answer, args=(datagrams, name)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        streams.shutdown(socket.SHUT_RDWR)
        with closing(netns.enter(where, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))) as poke:
            poke.sendto(b"end", ("127.0.0.1", port))
        for thread in threads:
            thread.join()
        streams.close()
        datagrams.close()


def _accept(listener: socket.socket, name: str) -> None:
    with suppress(OSError):  # shut down
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_serve, args=(connection, name), daemon=True).start()


def _serve(connection: socket.socket, name: str) -> None:
    with connection, suppress(OSError):
        connection.sendall(f"{name}\n".encode())
        while data := connection.recv(65536):
            connection.sendall(data)


def _answer(datagrams: socket.socket, name: str) -> None:
    with suppress(OSError):
        while True:
            data, client = datagrams.recvfrom(2048)
            if data == b"end":
                return
            datagrams.sendto(name.encode(), client)


def connect(where: str, address: str, port: int, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A TCP connection from a namespace."""
    stream = netns.enter(where, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    try:
        stream.settimeout(timeout_s)
        stream.connect((address, port))
    except BaseException:
        stream.close()
        raise
    return stream


def who(stream: socket.socket) -> str:
    """The name that a server said."""
    with stream.makefile("rb") as lines:
        return lines.readline().decode().strip()


def tcp(where: str, address: str, port: int) -> str:
    """Who answers a new TCP connection."""
    with connect(where, address, port) as stream:
        return who(stream)


def udp(where: str, address: str, port: int) -> str:
    """Who answers a datagram from a new source port; it must come from the address that was asked."""
    with netns.enter(where, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams:
        datagrams.settimeout(TIMEOUT_S)
        datagrams.connect((address, port))
        datagrams.send(b"who")
        return datagrams.recv(2048).decode()


def echo(stream: socket.socket, content: bytes) -> None:
    """Send and have it come back; AssertionError or OSError if it does not."""
    stream.sendall(content)
    received = b""
    while len(received) < len(content):
        chunk = stream.recv(65536)
        assert chunk, "the connection was closed"
        received += chunk
    assert received == content
