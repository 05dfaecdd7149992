"""The journal's file: made whole, locked, replaced atomically. Every function raises OSError as the kernel gives it.

The lock is an flock on the file itself. It belongs to the open file description, so it dies with the process, and
`replace` moves it: the new file is locked before the path names it, and an opener that got the lock of a file which the
path no longer names starts again.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp


class FileLocked(Exception):
    """Another process holds the lock."""


def open_locked(path: Path, first: bytes) -> int:
    """A locked descriptor (read, append) of the file at `path`, which is made with `first` in it if there is none.

    Raises FileLocked, OSError.
    """
    while True:
        if not path.exists():
            _create(path, first)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            _lock(fd)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its owner replaced the file between our open and our lock


def replace(path: Path, fd: int, content: bytes, keep_as: str = "") -> None:
    """Put a file with `content` in the place of the locked `fd`, atomically; `fd` is then the new file, locked.

    `keep_as` is the suffix under which the old file stays. On OSError everything is as it was.
    """
    draft = path.with_name(path.name + ".new")  # a fixed name: only the holder of the lock comes here
    draft.unlink(missing_ok=True)
    fresh = os.open(draft, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _lock(fresh)
        write_all(fresh, content)
        os.fsync(fresh)
        if keep_as:
            kept = path.with_name(path.name + keep_as)
            kept.unlink(missing_ok=True)
            os.link(path, kept)
        draft.replace(path)
        os.dup2(fresh, fd, inheritable=False)  # same number, new file: no thread can be left with a stale descriptor
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(fresh)
    # The path names the new file already; only a crash of the machine could take that back, and then the boot id
    # voids the journal anyway. So a failure here is none.
    with suppress(OSError):
        _sync_folder(path)


def cut(fd: int, size: int) -> None:
    """Drop everything from `size` on."""
    os.ftruncate(fd, size)
    os.fdatasync(fd)


def append(fd: int, data: bytes) -> None:
    """Write all of `data` at the end and sync it. On OSError a part of it may be there."""
    write_all(fd, data)
    os.fdatasync(fd)


def write_all(fd: int, data: bytes) -> None:
    """write(2) until everything is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read(fd: int, start: int = 0, end: int | None = None) -> bytes:
    """The bytes from `start` to `end` (default: the end of the file)."""
    return os.pread(fd, (os.fstat(fd).st_size if end is None else end) - start, start)


def _create(path: Path, first: bytes) -> None:
    fd, draft = mkstemp(prefix=path.name + ".", dir=path.parent)
    try:
        write_all(fd, first)
        os.fsync(fd)
        # unlike a rename, a link never overwrites the file of a process that was faster
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        _sync_folder(path)
    finally:
        os.close(fd)
        Path(draft).unlink()


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileLocked from error


def _sync_folder(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
