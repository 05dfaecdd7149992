"""Run a program and see each of its system calls before it happens (ptrace, as strace does, but with a hook).

A hook makes races exact: what it does, happens between two chosen calls of the program.
"""

import ctypes
import os
import platform
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

_TRACEME, _SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_O_TRACESYSGOOD, _O_EXITKILL = 1, 0x100000
_ENTRY = 1
_INFO = struct.Struct("<B7xQQQ")  # op, arch and padding; instruction and stack pointer; number
# musl still uses x86's old open (2); to a test it is the same call.
_NUMBERS = {
    "x86_64": {42: "connect", 44: "sendto", 46: "sendmsg", 74: "fsync", 231: "exit_group", 257: "openat"}
    | {2: "openat", 263: "unlinkat", 264: "renameat", 0: "read", 1: "write"},
    "aarch64": {203: "connect", 206: "sendto", 211: "sendmsg", 82: "fsync", 94: "exit_group", 56: "openat"}
    | {35: "unlinkat", 38: "renameat", 63: "read", 64: "write"},
}
_libc = ctypes.CDLL(None, use_errno=True)


def _ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> None:
    pointer = ctypes.c_void_p(data) if isinstance(data, int) else data
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_int(pid), ctypes.c_void_p(address), pointer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def run_traced(
    program: Path, env: Mapping[str, str], content: bytes, before: Callable[[str], None]
) -> tuple[int, list[str]]:
    """(exit code, names of the calls this file knows, in order); before(name) runs while the program is stopped."""
    process = subprocess.Popen(
        [program],
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: _ptrace(_TRACEME, 0),
    )
    assert process.stdin is not None
    process.stdin.write(content)  # fits into the pipe
    process.stdin.close()
    names = _NUMBERS[platform.machine()]
    calls: list[str] = []
    os.waitpid(process.pid, 0)
    _ptrace(_SETOPTIONS, process.pid, 0, _O_TRACESYSGOOD | _O_EXITKILL)
    info = ctypes.create_string_buffer(_INFO.size)
    while True:
        with suppress(ProcessLookupError):  # killed by the hook: only its status is left
            _ptrace(_SYSCALL, process.pid)
        _, status = os.waitpid(process.pid, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, calls
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            continue
        _ptrace(_GET_SYSCALL_INFO, process.pid, _INFO.size, info)
        operation, _, _, number = _INFO.unpack(info.raw)
        if operation == _ENTRY and number in names:
            calls.append(names[number])
            before(names[number])
