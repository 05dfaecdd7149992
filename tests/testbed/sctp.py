"""SCTP servers and calls in namespaces: one message there, one back. Needs SCTP (a module of Debian's kernel)."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from tests.testbed import netns

TIMEOUT_S = 10.0


def _socket(where: str, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = netns.enter(where, lambda: socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP))
    made.settimeout(TIMEOUT_S)
    return made


@contextlib.contextmanager
def server(where: str, address: str, port: int, name: str) -> Iterator[None]:
    """Answers the first message of every association with "NAME CLIENT"."""
    with _socket(where, address) as listener:
        listener.bind((address, port))
        listener.listen(8)
        thread = threading.Thread(target=_serve, args=(listener, name))
        thread.start()
        try:
            yield
        finally:
            with _socket(where, address) as poke:
                poke.connect((address, port))
                poke.send(b"end")
            thread.join()


def _serve(listener: socket.socket, name: str) -> None:
    listener.settimeout(None)
    while True:
        association, client = listener.accept()
        with association, contextlib.suppress(OSError):  # a client that gave up
            message = association.recv(2048)
            if message == b"end":
                return
            association.send(f"{name} {client[0]}".encode())


def call(where: str, address: str, port: int) -> tuple[str, str]:
    """Who answers, and the address it hears the client by."""
    with _socket(where, address) as association:
        association.connect((address, port))
        association.send(b"who")
        name, client = association.recv(2048).decode().split()
        return name, client
