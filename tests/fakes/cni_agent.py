"""A small agent for the shim's tests, and the shim itself, compiled by the Makefile's command."""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from cni.frame import REQUEST_HEADER, Frame, decode, encode_answer, payload_length

SOURCE = Path(__file__).parents[2] / "cni" / "shim.c"
POD_ENV = {"CNI_CONTAINERID": "c0ffee", "CNI_NETNS": "/proc/self/ns/net", "CNI_IFNAME": "eth0"}


_built: dict[tuple[str, ...], Path] = {}


def build_shim(folder: Path, *defines: str) -> Path:
    """The real shim with -D of some constants, in this folder, or where an earlier test of the session has built it."""
    if defines in _built:
        return _built[defines]
    target = folder / "dragline"
    options = [f"-D{define}" for define in defines]
    command = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", *options, "-o", str(target), str(SOURCE)]
    subprocess.run(command, check=True)
    _built[defines] = target
    return target


def run_shim(
    shim: Path, command: str, config: bytes, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Call the shim as a runtime does; env replaces the pod's usual variables one by one."""
    environment = {"CNI_COMMAND": command, **POD_ENV, **(env or {})}
    return subprocess.run([shim], input=config, env=environment, capture_output=True, timeout=20, check=False)


@dataclass(frozen=True)
class Seen:
    """One request as it arrived: the frame and (st_dev, st_ino) of the descriptor, if one came."""

    frame: Frame
    netns: tuple[int, int] | None


Behaviour = Callable[[socket.socket, Seen], None]


def says(code: int, body: bytes) -> Behaviour:
    """An agent that answers so."""
    return lambda client, _: client.sendall(encode_answer(code, body))


def hangs_up(client: socket.socket, _: Seen) -> None:
    """An agent that dies before it answers."""


def read_request(client: socket.socket) -> Seen:
    """Read one whole request; strict: two descriptors, or bytes behind the frame, fail."""
    chunk, fds, _, _ = socket.recv_fds(client, 65536, 2)
    received = bytearray(chunk)
    while len(received) < REQUEST_HEADER.size + payload_length(bytes(received[:8])):
        chunk = client.recv(65536)
        assert chunk, "the shim closed in the middle of its frame"
        received += chunk
    assert len(fds) <= 1
    identity = None
    for fd in fds:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        os.close(fd)
    return Seen(decode(bytes(received[REQUEST_HEADER.size :])), identity)


@dataclass
class FakeAgent:
    """Listens at path in a thread, behaves as told for one call after the other (the last for all that follow)."""

    path: Path
    behaviours: list[Behaviour]
    seen: list[Seen] = field(default_factory=list)

    def __enter__(self) -> "FakeAgent":
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._listener.close()
        self.path.unlink()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self.seen.append(read_request(client))
                behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
                behaviour(client, self.seen[-1])
