"""BPF_PROG_TEST_RUN many thousand times: buffers made once, and what datapath/bpfcall.py has no use for.

Frames may claim to be GSO segments (`gso_size`), or to carry a CHECKSUM_COMPLETE sum (`complete`, Linux 6.17): the
kernel checks it against the frame that the program left, and a sum that went wrong is an OSError (EBADMSG).
"""

from __future__ import annotations

import ctypes
import os
import struct

from datapath import bpfcall

_TEST = struct.Struct("=IIIIQQIIIIQQIII4x")
_TEST_RUN = 10
_SKB_SIZE, _IFINDEX_AT, _GSO_SIZE_AT = 192, 40, 176
_COMPLETE = 1 << 2
_ROOM = 4096


class Runner:
    """One program on one device of the current netns."""

    def __init__(self, fd: int, ifindex: int) -> None:
        self._fd = fd
        self._data, self._out = (ctypes.create_string_buffer(_ROOM) for _ in range(2))
        self._skb = ctypes.create_string_buffer(_SKB_SIZE)
        struct.pack_into("=I", self._skb, _IFINDEX_AT, ifindex)
        self._attr = ctypes.create_string_buffer(_TEST.size)
        self._pointers = tuple(ctypes.addressof(buffer) for buffer in (self._data, self._out))
        self._tail = (1, 0, _SKB_SIZE, 0, ctypes.addressof(self._skb), 0)

    def run(self, frame: bytes, *, gso_size: int = 0, complete: bool = False) -> tuple[int, bytes]:
        """Give the TC code and the frame as the program left it. OSError EINVAL: the kernel takes no such frame."""
        struct.pack_into("=I", self._skb, _GSO_SIZE_AT, gso_size)
        ctypes.memmove(self._data, frame, len(frame))
        flags = _COMPLETE if complete else 0
        _TEST.pack_into(self._attr, 0, self._fd, 0, len(frame), _ROOM, *self._pointers, *self._tail, flags, 0, 0)
        if bpfcall._syscall(bpfcall._SYSCALL, _TEST_RUN, self._attr, _TEST.size) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        retval, length = struct.unpack_from("=4xI4xI", self._attr)
        return ctypes.c_int32(retval).value, ctypes.string_at(self._out, length)
