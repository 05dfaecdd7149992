"""bpf(2) by ctypes, without bcc: the only module of the datapath that sees ctypes. OSError carries the kernel's errno.

Numbers and struct offsets are those of include/uapi/linux/bpf.h (stable kernel ABI).
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ANY, NOEXIST = 0, 1

_CREATE, _LOOKUP, _UPDATE, _DELETE = 0, 1, 2, 3
_PROG_LOAD, _OBJ_PIN, _OBJ_GET, _TEST_RUN, _OBJ_INFO = 5, 6, 7, 10, 15
_LOOKUP_BATCH, _UPDATE_BATCH, _DELETE_BATCH, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 24, 26, 27, 28, 29, 34
_BATCH = 1024

_SYSCALL = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint)
_syscall.restype = ctypes.c_long

_ELEM = struct.Struct("=IIQQQ")
_BATCH_ATTR = struct.Struct("=QQQQIIQQ")
_TEST = struct.Struct("=IIIIQQIIIIQQIII4x")
_MAP_INFO = struct.Struct("=IIIIII")
_PROG_INFO = struct.Struct("=II8sIIQQQIIQ")
_LINK_INFO = struct.Struct("=IIIxxxxQI4x")
_PROG_ATTR = struct.Struct("=IIQQIIQII16sII")
_SOCK_ADDR, _LINK_CGROUP = 18, 3


def _bpf(command: int, attr: "bytes | ctypes.Array[ctypes.c_char]") -> int:
    result: int = _syscall(_SYSCALL, command, attr, len(attr))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _buffer(data: bytes) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(data, len(data))


def map_create(kind: int, key_size: int, value_size: int, max_entries: int, flags: int, name: str) -> int:
    """Create a map (sizes in bytes) and give its descriptor."""
    attr = struct.pack("=IIIIIII16s", kind, key_size, value_size, max_entries, flags, 0, 0, name.encode()[:15])
    return _bpf(_CREATE, attr)


def _path_command(command: int, path: Path, fd: int) -> int:
    name = _buffer(os.fsencode(path) + b"\0")
    return _bpf(command, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def obj_pin(fd: int, path: Path) -> None:
    """Pin a map or program at `path` (on a bpffs)."""
    _path_command(_OBJ_PIN, path, fd)


def obj_get(path: Path) -> int:
    """Open what is pinned at `path`; give the descriptor."""
    return _path_command(_OBJ_GET, path, 0)


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """Give the value of `key` (`value_size` bytes; per-CPU maps: rounded up to 8, times possible CPUs), or None."""
    key_buffer, value = _buffer(key), ctypes.create_string_buffer(value_size)
    try:
        _bpf(_LOOKUP, _ELEM.pack(fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0))
    except FileNotFoundError:
        return None
    return value.raw


def update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    """Write one element; NOEXIST raises FileExistsError when it is there."""
    key_buffer, value_buffer = _buffer(key), _buffer(value)
    _bpf(_UPDATE, _ELEM.pack(fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value_buffer), flags))


def delete(fd: int, key: bytes) -> bool:
    """Delete one element; False when it was not there."""
    key_buffer = _buffer(key)
    try:
        _bpf(_DELETE, _ELEM.pack(fd, 0, ctypes.addressof(key_buffer), 0, 0))
    except FileNotFoundError:
        return False
    return True


def _write_batch(command: int, fd: int, keys: bytes, values: bytes, count: int) -> int:
    """Write or delete `count` packed elements in one call; give how many were done, with OSError when not all."""
    keys_buffer, values_buffer = _buffer(keys), _buffer(values or b"\0")
    pointers = ctypes.addressof(keys_buffer), ctypes.addressof(values_buffer) if values else 0
    attr = _buffer(_BATCH_ATTR.pack(0, 0, *pointers, count, fd, 0, 0))
    try:
        _bpf(command, attr)
    except OSError as error:
        done = _BATCH_ATTR.unpack(attr.raw)[4]
        if done == count:  # before 6.8 an error before the first element leaves the count as it was
            done = 0
        raise BatchError(error.errno, os.strerror(error.errno or 0), done) from error
    return count


class BatchError(OSError):
    """A batch stopped midway: `done` elements, the first ones, were taken."""

    def __init__(self, code: int | None, text: str, done: int) -> None:
        super().__init__(code, text)
        self.done = done


def update_batch(fd: int, keys: bytes, values: bytes, count: int) -> None:
    """Write `count` packed elements (kernel 5.6), in order. BatchError tells how many were written before it."""
    if count:
        _write_batch(_UPDATE_BATCH, fd, keys, values, count)


def delete_batch(fd: int, keys: bytes, key_size: int) -> None:
    """Delete packed keys (kernel 5.6); one that is not there is fine. BatchError tells how many are gone before it."""
    done, total = 0, len(keys) // key_size
    while done < total:
        try:
            _write_batch(_DELETE_BATCH, fd, keys[done * key_size :], b"", total - done)
        except BatchError as error:
            done += error.done
            if error.errno != errno.ENOENT:
                raise BatchError(error.errno, error.strerror or "", done) from error
            done += 1  # the kernel stops at a missing one
        else:
            return


def _read_batch(fd: int, token: bytes | None, sizes: tuple[int, int], count: int) -> tuple[bytes | None, bytes, bytes]:
    """Read up to `count` elements after `token`; give (next token or None at the end, keys, values), all packed."""
    key_size, value_size = sizes
    keys, values = ctypes.create_string_buffer(key_size * count), ctypes.create_string_buffer(value_size * count)
    before, after = _buffer(token or bytes(8)), ctypes.create_string_buffer(max(key_size, 8))
    start = ctypes.addressof(before) if token is not None else 0
    pointers = (start, ctypes.addressof(after), ctypes.addressof(keys), ctypes.addressof(values))
    attr = _buffer(_BATCH_ATTR.pack(*pointers, count, fd, 0, 0))
    at_end = False
    try:
        _bpf(_LOOKUP_BATCH, attr)
    except FileNotFoundError:  # what was read before the end is valid
        at_end = True
    following = None if at_end else after.raw
    read = _BATCH_ATTR.unpack(attr.raw)[4]
    return following, keys.raw[: read * key_size], values.raw[: read * value_size]


def batches(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Walk a hash map (kernel 5.6): packed keys and packed values, about a thousand at a time.

    Elements that change meanwhile may be seen or not.
    """
    token: bytes | None = None
    count = _BATCH
    while True:
        try:
            token, keys, values = _read_batch(fd, token, (key_size, value_size), count)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            count *= 2  # one hash bucket holds more than a batch
            continue
        yield keys, values
        if token is None:
            return


def cut(packed: bytes, size: int) -> Iterator[bytes]:
    """Cut what `batches` gave into elements of `size` bytes."""
    return (packed[at : at + size] for at in range(0, len(packed), size))


def items(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """Walk a hash map element by element."""
    for keys, values in batches(fd, key_size, value_size):
        yield from zip(cut(keys, key_size), cut(values, value_size), strict=True)


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map: bpf_map_type number, its id, sizes in bytes, entries, creation flags."""

    kind: int
    map_id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


def map_info(fd: int) -> MapInfo:
    """Give the facts of the map behind `fd`."""
    info = ctypes.create_string_buffer(_MAP_INFO.size)
    _bpf(_OBJ_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    return MapInfo(*_MAP_INFO.unpack(info.raw))


def prog_map_ids(fd: int) -> frozenset[int]:
    """Give the ids of the maps that the program behind `fd` uses."""
    ids = ctypes.create_string_buffer(4 * 64)
    asked = _PROG_INFO.pack(0, 0, b"", 0, 0, 0, 0, 0, 0, 64, ctypes.addressof(ids))
    info = _buffer(asked)
    _bpf(_OBJ_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    count = _PROG_INFO.unpack(info.raw)[9]
    return frozenset(struct.unpack(f"={count}I", ids.raw[: 4 * count]))


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A cgroup program's link: ids of program and cgroup (0: the cgroup is gone), bpf_attach_type number."""

    prog_id: int
    cgroup_id: int
    attach_type: int


def link_create(prog_fd: int, cgroup_fd: int, attach_type: int) -> int:
    """Attach a cgroup program beside those of others (kernel 5.7); give the link's descriptor.

    It is attached for as long as a descriptor or a pin of the link is there.
    """
    return _bpf(_LINK_CREATE, struct.pack("=IIII", prog_fd, cgroup_fd, attach_type, 0))


def link_update(link_fd: int, prog_fd: int) -> None:
    """Put another program into a link: every call runs the old one or the new one. ENOLINK: its cgroup is gone."""
    _bpf(_LINK_UPDATE, struct.pack("=IIII", link_fd, prog_fd, 0, 0))


def link_detach(link_fd: int) -> None:
    """End the attachment at once, whoever holds the link (kernel 5.9)."""
    _bpf(_LINK_DETACH, struct.pack("=I", link_fd))


def link_info(fd: int) -> LinkInfo | None:
    """Give the facts of a cgroup link; None: it is a link of another kind."""
    info = ctypes.create_string_buffer(_LINK_INFO.size)
    _bpf(_OBJ_INFO, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    kind, _, prog_id, cgroup_id, attach_type = _LINK_INFO.unpack(info.raw)
    return LinkInfo(prog_id, cgroup_id, attach_type) if kind == _LINK_CGROUP else None


def load_allowing(attach_type: int) -> int:
    """Load a CGROUP_SOCK_ADDR program that only allows; EINVAL where the kernel has no such hook. Its descriptor."""
    code = _buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 1, 0x95, 0, 0, 0))  # r0 = 1; exit
    licence = _buffer(b"GPL\0")
    pointers = ctypes.addressof(code), ctypes.addressof(licence)
    return _bpf(_PROG_LOAD, _PROG_ATTR.pack(_SOCK_ADDR, 2, *pointers, 0, 0, 0, 0, 0, b"", 0, attach_type))


@dataclass(frozen=True, slots=True)
class TestRun:
    """Answer of BPF_PROG_TEST_RUN: the TC verdict (signed), the frame as left by the program, mean ns of one run."""

    __test__ = False  # for pytest: not a test class

    retval: int
    frame: bytes
    duration_ns: int


def prog_test_run(fd: int, frame: bytes, ifindex: int = 0, repeat: int = 1) -> TestRun:
    """Run a SCHED_CLS program on `frame` (from the MAC header), as if on device `ifindex` of the current netns.

    Ifindex 0 and 1 are the loopback. With `repeat` the program sees its own output again.
    """
    context = struct.pack("=40xI148x", ifindex)  # __sk_buff: ifindex is at 40, all else zero
    data, out, context_buffer = _buffer(frame), ctypes.create_string_buffer(len(frame) + 256), _buffer(context)
    sizes, pointers = (len(frame), len(out)), (ctypes.addressof(data), ctypes.addressof(out))
    tail = (repeat, 0, len(context), 0, ctypes.addressof(context_buffer), 0, 0, 0, 0)
    attr = _buffer(_TEST.pack(fd, 0, *sizes, *pointers, *tail))
    _bpf(_TEST_RUN, attr)
    _, retval, _, length, _, _, _, duration, *_ = _TEST.unpack(attr.raw)
    return TestRun(ctypes.c_int32(retval).value, out.raw[:length], duration)
