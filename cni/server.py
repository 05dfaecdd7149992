"""The agent's door: a unix stream socket for root, one task per call, one lane per container id.

A call is one task. It takes its container's lane, runs the verb to its end and lets go, whatever becomes of the
client: when the deadline passes, the connection answers "try again" by itself and the task goes on undisturbed, still
in its lane. There is no bound on how many run at once, so a burst of ADDs cannot keep a DEL out.
"""

import asyncio
import errno
import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

from cni.connection import Connection
from cni.errors import BAD_ENVIRONMENT, INTERNAL, TRY_AGAIN, CniError
from cni.frame import Frame
from cni.lanes import Lanes
from cni.request import Request, parse, pod_named_by, version_of
from cni.result import render_error, render_versions

Verb = Callable[[Request], Awaitable[bytes]]
Control = Callable[[bytes], Awaitable[bytes]]

_log = logging.getLogger(__name__)
_BACKLOG = 1024
_ACCEPTS_PER_WAKE = 64
_PAUSE_S = 0.1  # without descriptors left, a readable listener would otherwise spin the loop
_UCRED = struct.Struct("3i")
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Server:
    """Serves CNI verbs and lower-case control verbs on `path`; deadline_s (seconds) counts from the accept.

    A verb gets a Request and returns what the shim prints; a control gets its JSON arguments. Both may raise CniError;
    anything else becomes code 999 and a traceback in the log. The netns descriptor is closed when the verb ends.
    """

    def __init__(
        self, path: Path, verbs: Mapping[str, Verb], controls: Mapping[str, Control], deadline_s: float = 20.0
    ) -> None:
        self._path = path
        self._verbs = verbs
        self._controls = controls
        self._deadline_s = deadline_s
        self._lanes = Lanes()
        self._connections: set[Connection] = set()
        self._calls: set[asyncio.Task[bytes]] = set()
        self._left = asyncio.Event()
        self._listener: socket.socket | None = None
        self._inode = 0

    async def start(self) -> None:
        """Listen; whoever can see the path can connect. OSError if the path cannot be had."""
        self._listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    async def stop(self) -> None:
        """Accept no more, wait for every running verb and for its answer to be sent. Harmless when not started."""
        if self._listener is None:
            return
        self._take_path_away()  # first: from here shims find no socket, and retry until the next agent listens
        for _ in range(_BACKLOG // _ACCEPTS_PER_WAKE):
            self._accept()  # those that are already in the queue would otherwise be reset
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self._listener = None
        for connection in tuple(self._connections):
            connection.abandon()
        while self._calls or self._connections:
            self._left.clear()
            await self._left.wait()

    def _take_path_away(self) -> None:
        try:
            if self._path.stat().st_ino == self._inode:  # a successor may have put its own socket there
                self._path.unlink()
        except FileNotFoundError:
            pass

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_WAKE):
            if self._listener is None:
                return
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                self._pause(self._listener, error)
                return
            self._open(sock)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        _log.error("cannot accept: %s", error, extra={"reason": str(error)})
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(_PAUSE_S, self._resume, listener)

    def _resume(self, listener: socket.socket) -> None:
        if listener is self._listener:
            asyncio.get_running_loop().add_reader(listener, self._accept)

    def _open(self, sock: socket.socket) -> None:
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid != 0:
            _log.warning("refused peer: pid %d has uid %d", pid, uid, extra={"reason": "uid"})
            sock.close()
            return
        connection = Connection(sock, self._serve, self._closed, self._deadline_s)
        self._connections.add(connection)
        connection.read()

    def _serve(self, connection: Connection, frame: Frame, netns_fd: int) -> None:
        call = asyncio.get_running_loop().create_task(self._call(connection, frame, netns_fd))
        self._calls.add(call)
        call.add_done_callback(partial(self._settle, connection, frame, time.monotonic()))

    async def _call(self, connection: Connection, frame: Frame, netns_fd: int) -> bytes:
        try:
            if frame.command in self._controls:
                return await self._controls[frame.command](frame.config)
            if frame.command == "VERSION":
                return render_versions(version_of(frame.config))
            verb = self._verbs.get(frame.command)
            if verb is None:
                raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND {frame.command!r}")
            request = parse(frame, netns_fd)
            if frame.command == "STATUS":
                return await verb(request)
            return await self._in_lane(connection, verb, request)
        finally:
            if netns_fd >= 0:
                os.close(netns_fd)

    async def _in_lane(self, connection: Connection, verb: Verb, request: Request) -> bytes:
        container_id = request.key.container_id
        await self._lanes.acquire(container_id)
        try:
            if request.command == "ADD" and not connection.waiting:
                # It was told to try again while it stood in line: nobody would take the pod that we wire.
                raise CniError(TRY_AGAIN, "the deadline passed before the container's earlier verbs were done")
            return await verb(request)
        finally:
            self._lanes.release(container_id)

    def _settle(self, connection: Connection, frame: Frame, begun: float, call: asyncio.Task[bytes]) -> None:
        # The house's one catch-all, without a broad except: the task has caught whatever the verb raised.
        self._calls.discard(call)
        raised = CniError(TRY_AGAIN, "the agent stops") if call.cancelled() else call.exception()
        if raised is not None and not isinstance(raised, CniError):
            _log.error("%s of %s failed", frame.command, frame.container_id, exc_info=raised)
            raised = CniError(INTERNAL, f"internal error: {type(raised).__name__}: {raised}")
        if raised is None:
            heard = connection.answer(0, call.result())
        else:
            heard = connection.answer(1, render_error(raised, version_of(frame.config)))
        self._note(frame, raised, heard, (time.monotonic() - begun) * 1000)
        self._left.set()

    def _note(self, frame: Frame, error: CniError | None, heard: bool, ms: float) -> None:
        if frame.command in self._controls or not _log.isEnabledFor(logging.INFO):
            return
        pod = pod_named_by(frame.args)
        _log.info(
            "%s %s%s",
            frame.command,
            f"failed with code {error.code}" if error else "done",
            "" if heard else ", nobody heard it",
            extra={
                "container_id": frame.container_id,
                "ifname": frame.ifname,
                "pod": f"{pod.namespace}/{pod.name}" if pod else "",
                "ms": f"{ms:.1f}",
                "reason": error.msg if error else "",
            },
        )

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._left.set()


def _listen(path: Path) -> socket.socket:
    """A listening socket at path, mode 0600, in place of a stale one; it listens before it has its name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise FileExistsError(errno.EEXIST, "not a socket, and not to be replaced by one", str(path))
    draft = path.with_name(f".{os.getpid()}")  # short: a socket's path has 107 bytes
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(draft))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    draft.rename(path)
    return listener
