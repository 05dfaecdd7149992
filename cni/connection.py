"""One client of the agent's socket: it sends one frame, gets one answer, and is closed. Loop thread only.

Raw non-blocking sockets, because neither asyncio's nor uvloop's transports hand over SCM_RIGHTS. In the common case the
whole frame is there when the connection is accepted and the answer fits into the socket: one recvmsg, one send, no
watcher. One timer bounds the client's whole stay: reading, running and writing.
"""

import array
import asyncio
import enum
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from cni.errors import DECODE_FAILURE, TRY_AGAIN, CniError
from cni.frame import REQUEST_HEADER, Frame, FrameError, decode, encode_answer, payload_length
from cni.request import version_of
from cni.result import render_error

_log = logging.getLogger(__name__)
_CHUNK = 65536
_FD_SPACE = socket.CMSG_LEN(array.array("i").itemsize)  # room for one descriptor: the kernel drops and flags a second


class State(enum.Enum):
    """Where a client stands."""

    READING = "reading"
    RUNNING = "running"
    WRITING = "writing"
    CLOSED = "closed"


_MOVES = {
    State.READING: (State.RUNNING, State.WRITING, State.CLOSED),
    State.RUNNING: (State.WRITING, State.CLOSED),
    State.WRITING: (State.CLOSED,),
    State.CLOSED: (),
}


class Connection:
    """Reads a Frame, calls serve(connection, frame, netns_fd) once, sends what answer() is given, calls closed()."""

    def __init__(
        self,
        sock: socket.socket,
        serve: Callable[["Connection", Frame, int], None],
        closed: Callable[["Connection"], None],
        deadline_s: float,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._serve = serve
        self._closed = closed
        self._state = State.READING
        self._watched = False
        self._received = b""
        self._netns_fd = -1
        self._config = b""
        self._unsent = memoryview(b"")
        self._deadline_s = deadline_s
        self._timer = self._loop.call_later(deadline_s, self._expired)

    @property
    def waiting(self) -> bool:
        """Whether the client still waits for its answer."""
        return self._state is State.RUNNING

    def read(self) -> None:
        """Take what has come; called once by the server, later by the loop."""
        try:
            chunk, ancillary, flags, _ = self._sock.recvmsg(_CHUNK, _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            self._watch()
            return
        except OSError as error:
            self._give_up(f"read: {error}")
            return
        lost = not self._keep_descriptors(ancillary) or bool(flags & socket.MSG_CTRUNC)
        if not chunk:
            self._give_up("the client left before its frame was complete")
            return
        self._received = self._received + chunk if self._received else chunk
        try:
            frame = self._frame()
        except FrameError as error:
            self._refuse(CniError(DECODE_FAILURE, f"broken frame: {error}"))
            return
        if lost:
            self._refuse(
                CniError(TRY_AGAIN, "the netns descriptor was lost: agent at its limit, or more than one sent")
            )
        elif frame is None:
            self._watch()
        else:
            self._run(frame)

    def answer(self, code: int, body: bytes) -> bool:
        """Send the answer and close; False if the client is gone or was answered before (by the deadline)."""
        if self._state not in (State.READING, State.RUNNING):
            return False
        self._move(State.WRITING)
        self._unsent = memoryview(encode_answer(code, body))
        return self._write()

    def abandon(self) -> None:
        """Close a client whose frame is still incomplete (the server stops)."""
        if self._state is State.READING:
            self._give_up("the agent stops")

    def _frame(self) -> Frame | None:
        """The frame, or None while it is incomplete; FrameError when it can never become one."""
        received = self._received
        if len(received) < REQUEST_HEADER.size:
            return None
        whole = REQUEST_HEADER.size + payload_length(received)
        if len(received) > whole:
            raise FrameError(f"{len(received) - whole} bytes behind the payload")
        return decode(received[REQUEST_HEADER.size :]) if len(received) == whole else None

    def _keep_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> bool:
        """Keep the one descriptor, close any other; False if there was another."""
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        for fd in fds:
            if self._netns_fd >= 0:
                os.close(fd)
                return False
            self._netns_fd = fd
        return True

    def _run(self, frame: Frame) -> None:
        self._unwatch()
        self._move(State.RUNNING)
        self._received, self._config = b"", frame.config
        netns_fd, self._netns_fd = self._netns_fd, -1  # the server owns it from here
        self._serve(self, frame, netns_fd)

    def _write(self) -> bool:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._give_up(f"write: {error}")
            return False
        self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._close()
        elif not self._watched:
            self._watched = True
            self._loop.add_writer(self._sock, self._write)
            self._timer.cancel()  # a verb that ended just in time has its own time to be heard
            self._timer = self._loop.call_later(self._deadline_s, self._expired)
        return True

    def _expired(self) -> None:
        if self._state is State.RUNNING:
            message = f"not done after {self._deadline_s:g} s, the agent goes on with it"
            self.answer(1, render_error(CniError(TRY_AGAIN, message), version_of(self._config)))
        else:
            self._give_up(f"{self._state.value} took longer than {self._deadline_s:g} s")

    def _refuse(self, error: CniError) -> None:
        _log.warning("refused a client: %s", error.msg, extra={"reason": error.msg})
        self._unwatch()
        self.answer(1, render_error(error, ""))

    def _give_up(self, reason: str) -> None:
        _log.debug("client dropped: %s", reason, extra={"reason": reason})
        self._close()

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            self._loop.add_reader(self._sock, self.read)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)

    def _close(self) -> None:
        self._move(State.CLOSED)
        self._unwatch()
        self._timer.cancel()
        if self._netns_fd >= 0:
            os.close(self._netns_fd)
            self._netns_fd = -1
        with suppress(OSError):
            self._sock.close()
        self._closed(self)

    def _move(self, state: State) -> None:
        if state not in _MOVES[self._state]:
            raise RuntimeError(f"a client cannot go from {self._state.value} to {state.value}")
        self._state = state
