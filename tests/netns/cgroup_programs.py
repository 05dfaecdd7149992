"""Which programs are attached to a cgroup, as the kernel says."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from pathlib import Path

from datapath import cgroup
from datapath.loader import SOCKET_PROGRAMS, Programs
from tests.netns.node import libc, program_id

_PROG_QUERY = 16


def attached(attach_type: int, where: Path) -> set[int]:
    """Ids of the programs at a hook of a cgroup (BPF_PROG_QUERY)."""
    fd = os.open(where, os.O_RDONLY)
    try:
        ids = ctypes.create_string_buffer(4 * 64)
        attr = ctypes.create_string_buffer(
            struct.pack("=IIIIQIIQ", fd, attach_type, 0, 0, ctypes.addressof(ids), 64, 0, 0), 40
        )
        assert libc.syscall(321, _PROG_QUERY, attr, len(attr)) == 0, os.strerror(ctypes.get_errno())
        count = struct.unpack_from("=I", attr, 24)[0]
        return set(struct.unpack_from(f"={count}I", ids))
    finally:
        os.close(fd)


def all_attached(where: Path) -> set[int]:
    """Ids of the programs at all our hooks, of whatever agents run on this machine."""
    return {number for spec in SOCKET_PROGRAMS for number in attached(spec.attach_type or 0, where)}


def ids_of(programs: Programs) -> set[int]:
    """Ids of a build's socket programs."""
    return {program_id(programs.fd(spec.name)) for spec in SOCKET_PROGRAMS}


def gone(ids: set[int]) -> None:
    """Wait until none of the programs is attached: after the last pin the kernel detaches in a work queue."""
    deadline = time.monotonic() + 10
    while all_attached(cgroup.check()) & ids:
        assert time.monotonic() < deadline
        time.sleep(0.01)
