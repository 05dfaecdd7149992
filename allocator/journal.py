"""The journal: every change of the ledger on disk (by default on /run, a tmpfs) before anybody is told about it.

Theory of operation.

* The file is a header frame (format version, boot id) and one frame per record (allocator.framing). It only grows, at
  the end. It is born complete, by rename, so an empty or headless file is damage, not a state of ours.
* **Group commit.** Threads that commit at the same time share one write and one fdatasync. The first to join a batch
  leads it: it waits until the batch before is on disk, closes its own to newcomers, writes it. The others wait for it.
* **A failed write** fails every commit of its batch and the file is cut back to where it was, so that none of these
  records can come back. If even that fails the journal is spent: it refuses everything until it could be compacted.
* **Opening** takes an flock on the file (a second agent is refused), cuts a torn tail, and gives the good records. If
  records in between are damaged, a copy of the file is kept as `*.damaged` and the journal is rewritten from the good
  ones. With another boot id the file becomes `*.previous` and the journal starts empty: no sandbox outlives a reboot.
  A lost header alone does not prove a reboot: the records are kept, since an address held for nothing costs less than
  one given twice. Everything of this kind is told in `problems`.
* **Compaction** writes the snapshot to a new file, then copies every record younger than the snapshot from the old one
  (commits go on meanwhile; only the last few are copied under the lock), then renames (allocator.journal_file).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from allocator import framing, journal_file
from allocator.attachments import AnyRecord, Snapshot

VERSION: Final = 1
COMPACT_AT_BYTES: Final = 1 << 20  # `due` also asks for four times the last compacted size, so work stays linear


class JournalError(Exception):
    """The record is not on disk: the request it belongs to must fail."""


class JournalLocked(JournalError):
    """Another process has the journal open: a second agent on this node."""


class _Header(msgspec.Struct, frozen=True, array_like=True, tag="header"):
    version: int
    boot_id: str


class _Batch:
    """Frames that go to disk together, and what became of them."""

    __slots__ = ("done", "error", "frames")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.done = threading.Event()
        self.error: str | None = "the thread that wrote this batch died"


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyRecord | _Header] = msgspec.msgpack.Decoder(AnyRecord | _Header)


class Journal:
    """An open journal. `commit` and `compact` may be called by any thread; both block."""

    def __init__(self, path: Path, fd: int, boot_id: str, problems: Sequence[str]) -> None:
        """Use `open`. `fd` is locked, in append mode, and holds good frames only."""
        self.path = path
        self.problems: list[str] = list(problems)
        self._boot_id = boot_id
        self._fd = fd
        self._size = self._compacted_size = os.fstat(fd).st_size
        self._spent: str | None = None
        self._closed = False
        self._compacting = threading.Lock()  # one compaction at a time; the locks are taken in the order given here
        self._io = threading.Lock()  # guards the file
        self._joining = threading.Lock()  # guards _gathering
        self._gathering = _Batch()

    @classmethod
    def open(cls, path: Path, boot_id: str) -> tuple[Journal, list[AnyRecord]]:
        """The journal at `path` (created if missing) and its records of this boot, in file order.

        `boot_id` is the text of /proc/sys/kernel/random/boot_id. Raises JournalLocked if another agent has it open,
        JournalError if it cannot be read or rewritten, or was written by a newer version.
        """
        try:
            fd = journal_file.open_locked(path, _header(boot_id))
            try:
                problems, records = _recover(path, fd, boot_id)
                return cls(path, fd, boot_id, problems), records
            except BaseException:
                os.close(fd)
                raise
        except journal_file.FileLocked as error:
            raise JournalLocked(f"{path} is in use by another agent: one agent per node and state folder") from error
        except OSError as error:
            raise JournalError(f"cannot open the journal {path}: {error.strerror}") from error

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._size

    @property
    def due(self) -> bool:
        """Whether it has grown enough to be worth a compaction."""
        return self._spent is not None or self._size > max(COMPACT_AT_BYTES, 4 * self._compacted_size)

    def commit(self, *records: AnyRecord) -> None:
        """Return when `records` are on disk, together and in this order. Raises JournalError if they are not."""
        if not records:
            return
        frames = b"".join(map(_frame, records))
        with self._joining:
            batch = self._gathering
            batch.frames.append(frames)
            leads = len(batch.frames) == 1
        if leads:
            self._lead(batch)
        else:
            batch.done.wait()
        if batch.error is not None:
            raise JournalError(f"the journal {self.path} was not written: {batch.error}")

    def compact(self, records: Iterable[AnyRecord]) -> None:
        """Replace everything up to the snapshot by it; records younger than the snapshot are kept.

        `records` is `Ledger.compaction_records()`, a Snapshot first. Also mends a journal that could not be cut back.
        Raises JournalError; the old file stays then.
        """
        snapshot = list(records)
        if not snapshot or not isinstance(snapshot[0], Snapshot):
            raise ValueError("a compaction starts with its Snapshot record")
        frames = [_header(self._boot_id), *map(_frame, snapshot)]
        with self._compacting:
            if self._closed:
                raise JournalError(f"cannot compact the journal {self.path}: it is closed")
            try:
                self._compact(b"".join(frames), snapshot[0].seq)
            except OSError as error:
                raise JournalError(f"cannot compact the journal {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Wait for what is being written, then let go of the file and its lock. Later commits fail."""
        with self._compacting, self._io:
            if not self._closed:
                os.close(self._fd)
            self._closed, self._spent = True, "it is closed"

    def _lead(self, batch: _Batch) -> None:
        try:
            with self._io:
                self._end_joining(batch)
                batch.error = self._append(b"".join(batch.frames))
        finally:
            self._end_joining(batch)  # an interrupt while waiting for _io must not leave a batch without a leader open
            batch.done.set()

    def _end_joining(self, batch: _Batch) -> None:
        with self._joining:
            if self._gathering is batch:
                self._gathering = _Batch()

    def _append(self, data: bytes) -> str | None:
        """Write and sync; on failure cut back. Returns why it failed, or None. Called with _io held."""
        if self._spent is not None:
            return self._spent
        try:
            journal_file.append(self._fd, data)
        except OSError as error:
            self._cut_back()
            return error.strerror or "unknown error"
        except BaseException:  # an interrupt half-way: the same, but it goes on
            self._cut_back()
            raise
        self._size += len(data)
        return None

    def _cut_back(self) -> None:
        try:
            journal_file.cut(self._fd, self._size)
        except OSError as error:
            self._spent = f"an earlier failed write could not be cut off ({error.strerror})"
            self.problems.append(f"{self._spent}: no request is accepted until a compaction or a restart succeeds")

    def _compact(self, content: bytes, watermark: int) -> None:
        copied = self._size  # everything below is synced and does not change any more
        content += _younger(journal_file.read(self._fd, 0, copied), watermark)
        with self._io:
            content += _younger(journal_file.read(self._fd, copied, self._size), watermark)
            journal_file.replace(self.path, self._fd, content)
            self._size = self._compacted_size = len(content)
            self._spent = None


def _recover(path: Path, fd: int, boot_id: str) -> tuple[list[str], list[AnyRecord]]:
    """What is wrong with the file (and put right now), and the records of this boot."""
    data = journal_file.read(fd)
    found = framing.scan(data)
    header, records, problems = _decode(data, found)
    if header is not None and header.boot_id != boot_id:
        journal_file.replace(path, fd, _header(boot_id), keep_as=".previous")
        return [f"the journal is of another boot: kept as {path.name}.previous"], []
    if header is not None and header.version > VERSION:
        raise JournalError(f"{path} was written by a newer Dragline (format {header.version}, ours is {VERSION})")
    if problems:
        journal_file.replace(path, fd, _header(boot_id) + b"".join(map(_frame, records)), keep_as=".damaged")
        problems.append(f"a copy of the damaged journal is kept as {path.name}.damaged")
    elif found.tail < len(data):
        problems.append(f"cut a torn tail of {len(data) - found.tail} bytes (a write that was never acknowledged)")
        journal_file.cut(fd, found.tail)
    return problems, records


def _header(boot_id: str) -> bytes:
    return framing.frame(_encoder.encode(_Header(VERSION, boot_id)))


def _frame(record: AnyRecord) -> bytes:
    try:
        return framing.frame(_encoder.encode(record))
    except ValueError as error:
        raise JournalError(str(error)) from error


def _decode(data: bytes, found: framing.Scan) -> tuple[_Header | None, list[AnyRecord], list[str]]:
    """The header if there is one, the records, and what is damaged."""
    problems = [f"a damaged stretch of {end - start} bytes at {start} was skipped" for start, end in found.damaged]
    if found.tail < len(data) and not found.torn:
        problems.append(f"the last {len(data) - found.tail} bytes, from {found.tail} on, are damaged and were dropped")
    header: _Header | None = None
    records: list[AnyRecord] = []
    for at in found.frames:
        try:
            record = _decoder.decode(framing.body(data, at))
        except msgspec.DecodeError as error:
            problems.append(f"the record at {at[0]} is none that this version knows: {error}")
            continue
        if isinstance(record, _Header):
            header = record
        else:
            records.append(record)
    if header is None:
        problems.append(f"the header is missing: its {len(records)} records are taken for this boot's")
    return header, records, problems


def _younger(data: bytes, watermark: int) -> bytes:
    """The frames of records with a larger seq, in one piece."""
    _, records, _ = _decode(data, framing.scan(data))
    return b"".join(_frame(record) for record in records if record.seq > watermark)
