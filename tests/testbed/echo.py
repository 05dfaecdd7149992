"""Echo servers that say who they are and who calls, any number of them in one thread, each in a namespace of its own.

A socket stays in the namespace in which it was made, so no process need live there.
TCP: a line "NAME PORT CLIENT" at once, then everything comes back. UDP: "who" is answered with that line, any other
datagram with its bytes inverted (so that an answer cannot be taken for the question).
"""

import contextlib
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.testbed import netns

INVERTED = bytes(255 - byte for byte in range(256))
_MOST_WAITING = 1 << 20


class Heard(NamedTuple):
    """A server's line: who it is, the port it listens on, and the address it sees the client by."""

    name: str
    port: int
    client: str

    @classmethod
    def of(cls, line: bytes) -> "Heard":
        """From the line."""
        name, port, client = line.decode().split()
        return cls(name, int(port), client)


class Place(NamedTuple):
    """Where a server listens."""

    netns: str
    port: int
    protocol: str


class EchoServers:
    """A context manager; leaving it closes everything."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, self._ear = socket.socketpair()
        self._selector.register(self._ear, selectors.EVENT_READ, self._work)
        self._sockets: dict[Place, list[socket.socket]] = {}
        self._streams: dict[socket.socket, Place] = {}
        self._open = True
        self._thread = threading.Thread(target=self._run, name="echo servers", daemon=True)

    def __enter__(self) -> "EchoServers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for place in list(self._sockets):
            self.stop(*place)
        self._do(lambda: setattr(self, "_open", False))
        self._thread.join()
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def serve(self, name: str, where: str, port: int, *protocols: str) -> None:
        """Listen (both families, any address) in a namespace; without protocols: TCP and UDP."""
        for protocol in protocols or ("TCP", "UDP"):
            place = Place(where, port, protocol)
            made = netns.enter(where, lambda protocol=protocol: _listeners(port, protocol))
            self._sockets[place] = made
            answer = self._accept if protocol == "TCP" else self._datagram
            for one in made:
                self._do(lambda one=one, answer=answer, place=place: self._listen(one, answer, name, place))

    def stop(self, where: str, port: int, *protocols: str) -> None:
        """Stop listening and drop the connections, as the end of the process would."""
        for protocol in protocols or ("TCP", "UDP"):
            place = Place(where, port, protocol)
            for one in self._sockets.pop(place, ()):
                self._do(lambda one=one: self._close(one))
            self._do(lambda place=place: [self._close(one) for one, of in list(self._streams.items()) if of == place])

    @contextlib.contextmanager
    def serving(self, name: str, where: str, port: int, *protocols: str) -> Iterator[None]:
        """`serve` for the length of a block."""
        self.serve(name, where, port, *protocols)
        try:
            yield
        finally:
            self.stop(where, port, *protocols)

    def _do(self, job: Callable[[], object]) -> None:
        """Have the thread do something, and wait for it."""
        done = threading.Event()
        self._jobs.put(lambda: (job(), done.set()))
        self._bell.send(b"!")
        done.wait()

    def _work(self, _mask: int) -> None:
        self._ear.recv(1)
        self._jobs.get()()

    def _run(self) -> None:
        while self._open:
            for key, mask in self._selector.select():
                key.data(mask)

    def _listen(
        self, one: socket.socket, answer: Callable[[socket.socket, str, Place], None], name: str, place: Place
    ) -> None:
        one.setblocking(False)
        self._selector.register(one, selectors.EVENT_READ, lambda _: answer(one, name, place))

    def _close(self, one: socket.socket) -> None:
        self._streams.pop(one, None)
        with contextlib.suppress(KeyError):
            self._selector.unregister(one)
        one.close()

    def _accept(self, listener: socket.socket, name: str, place: Place) -> None:
        with contextlib.suppress(OSError):  # gone before it was accepted
            stream, client = listener.accept()
            stream.setblocking(False)
            waiting = bytearray(_line(name, place.port, client[0]))
            self._streams[stream] = place
            self._selector.register(stream, selectors.EVENT_WRITE, lambda mask: self._stream(stream, waiting, mask))

    def _stream(self, stream: socket.socket, waiting: bytearray, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                del waiting[: stream.send(waiting)]
            if mask & selectors.EVENT_READ:
                data = stream.recv(262144)
                if not data:
                    self._close(stream)
                    return
                waiting += data
        except BlockingIOError:
            return
        except OSError:
            self._close(stream)
            return
        wanted = selectors.EVENT_WRITE if waiting else 0
        wanted |= selectors.EVENT_READ if len(waiting) < _MOST_WAITING else 0
        if self._selector.get_key(stream).events != wanted:
            self._selector.modify(stream, wanted, self._selector.get_key(stream).data)

    def _datagram(self, one: socket.socket, name: str, place: Place) -> None:
        with contextlib.suppress(OSError):  # an ICMP error, or a full buffer: datagrams may be lost
            data, client = one.recvfrom(65536)
            answer = _line(name, place.port, client[0]) if data == b"who" else data.translate(INVERTED)
            one.sendto(answer, client)


def _line(name: str, port: int, client: str) -> bytes:
    return f"{name} {port} {client}\n".encode()


def _listeners(port: int, protocol: str) -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        made = [undo.enter_context(_listener(where, port, protocol)) for where in ("0.0.0.0", "::")]
        undo.pop_all()
    return made


def _listener(anywhere: str, port: int, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in anywhere else socket.AF_INET
    one = socket.socket(family, socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((anywhere, port))
        if protocol == "TCP":
            one.listen(128)
    except OSError:
        one.close()
        raise
    return one
