"""Entering a pod's network namespace, for good.

A thread that has entered never goes back and must die with the work it did: a pooled thread, or the main thread, would
carry the pod's namespace into the next job. `os.setns` exists only from Python 3.12 on, hence ctypes.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading

from datapath.rtsocket import NetnsGone

CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
_libc = ctypes.CDLL(None, use_errno=True)


def enter(netns_fd: int) -> None:
    """Put the calling thread into the netns of the descriptor. The thread must be a throw-away one.

    Raises NetnsGone where the descriptor is closed or no netns (a path that is no mount any more), RuntimeError on the
    main thread.
    """
    if threading.current_thread() is threading.main_thread():
        raise RuntimeError("the main thread must never leave the node's network namespace")
    if netns_fd < 0:
        raise NetnsGone("enter netns", 0, "no descriptor was given")
    if _libc.setns(netns_fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise NetnsGone("enter netns", number, f"descriptor {netns_fd}: {os.strerror(number)}")


def cookie() -> int | None:
    """The number of the calling thread's netns, never given twice until the next boot; None before Linux 5.14."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return None
    number: int = struct.unpack("=Q", raw)[0]
    return number
