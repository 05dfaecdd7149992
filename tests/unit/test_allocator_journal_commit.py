"""Journal: what failed never comes back; threads share writes."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from allocator.attachments import Gone, Snapshot, Tombstone
from allocator.journal import Journal, JournalError
from tests.unit.journals import BOOT, KEY, RECORDS, in_threads, read


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.mark.parametrize("after", [0, 11, 70])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch, after: int, error: int) -> None:
    journal, _ = Journal.open(path, BOOT)
    journal.commit(RECORDS[0])
    size = path.stat().st_size
    with monkeypatch.context() as patched:
        genuine, left = os.write, [after]
        patched.setattr(os, "write", lambda fd, data: _short(genuine, fd, data, left, error))
        with pytest.raises(JournalError, match=os.strerror(error)):
            journal.commit(*RECORDS[1:3])
    assert path.stat().st_size == size
    journal.commit(RECORDS[3])
    journal.close()
    assert read(path) == ([RECORDS[0], RECORDS[3]], [])


def test_a_failed_sync_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.open(path, BOOT)
    with monkeypatch.context() as patched:
        genuine, first = os.fdatasync, iter([True])  # the sync of the cut works again
        patched.setattr(os, "fdatasync", lambda fd: _raise(errno.EIO) if next(first, False) else genuine(fd))
        with pytest.raises(JournalError):
            journal.commit(*RECORDS[:2])
    journal.commit(RECORDS[3])
    journal.close()
    assert read(path) == ([RECORDS[3]], [])


def _raise(error: int) -> None:
    raise OSError(error, os.strerror(error))


def _short(genuine: Callable[[int, Any], int], fd: int, data: Any, left: list[int], error: int) -> int:
    if not left[0]:
        _raise(error)
    written = genuine(fd, data[: left[0]])
    left[0] = 0
    return written


def test_a_full_device_spends_the_journal() -> None:
    """/dev/full refuses the write with ENOSPC and the cut with EINVAL."""
    journal = Journal(Path("/dev/full"), os.open("/dev/full", os.O_RDWR), BOOT, [])
    with pytest.raises(JournalError, match="No space left"):
        journal.commit(RECORDS[0])
    with pytest.raises(JournalError, match="could not be cut off"):
        journal.commit(RECORDS[0])
    assert "until a compaction" in journal.problems[0]
    journal.close()


def test_a_compaction_mends_a_spent_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.open(path, BOOT)
    journal.commit(RECORDS[0])
    with monkeypatch.context() as patched:
        left, genuine = [20], os.write
        patched.setattr(os, "write", lambda fd, data: _short(genuine, fd, data, left, errno.ENOSPC))
        patched.setattr(os, "ftruncate", lambda fd, size: _raise(errno.EIO))
        with pytest.raises(JournalError):
            journal.commit(RECORDS[1])
    with pytest.raises(JournalError, match="could not be cut off"):
        journal.commit(RECORDS[1])
    assert journal.due  # or nobody would ever mend it
    journal.compact([Snapshot(0)])
    assert not journal.due
    journal.commit(RECORDS[2])
    journal.close()
    assert read(path) == ([Snapshot(0), RECORDS[0], RECORDS[2]], [])


def test_an_interrupt_in_the_middle_of_a_write_leaves_no_trace(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.open(path, BOOT)
    genuine = os.write

    def interrupted(fd: int, data: Any) -> int:
        genuine(fd, data[:30])
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.commit(RECORDS[0])
    journal.commit(RECORDS[1])
    journal.close()
    assert read(path) == ([RECORDS[1]], [])


def test_threads_share_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = Journal.open(path, BOOT)
    genuine, writes, syncs = os.write, [], []

    def counted(fd: int, data: Any) -> int:
        writes.append(len(data))
        return genuine(fd, data)

    monkeypatch.setattr(os, "write", counted)
    monkeypatch.setattr(os, "fdatasync", lambda fd: syncs.append(threading.Event().wait(0.001)))  # a disk of 1 ms

    def work(index: int) -> None:
        for step in range(20):
            journal.commit(Tombstone(index * 20 + step, str(index), step), Tombstone(1000, str(index), step))

    in_threads(16, work)
    journal.close()
    assert len(writes) == len(syncs) < 320 / 4  # each waits while the one before is written: batches of about 16
    records = [record for record in read(path)[0] if isinstance(record, Tombstone)]
    assert sorted(r.seq for r in records if r.seq != 1000) == list(range(320))
    assert all(a.container_id == b.container_id for a, b in zip(records[::2], records[1::2], strict=True))
    for index in range(16):  # a thread's own order is kept
        assert [r.started_ns for r in records[::2] if r.container_id == str(index)] == list(range(20))


def test_a_failed_batch_fails_all_of_it_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some writes fail: exactly the records whose commit returned are in the file."""
    journal, _ = Journal.open(path, BOOT)
    genuine, count, lock = os.write, [0], threading.Lock()
    chance = random.Random(3)

    def flaky(fd: int, data: Any) -> int:
        count[0] += 1
        if count[0] % 3 == 0:
            genuine(fd, data[: chance.randrange(len(data))])
            _raise(errno.ENOSPC)
        return genuine(fd, data)

    monkeypatch.setattr(os, "write", flaky)
    acknowledged: set[int] = set()
    failed: set[int] = set()

    def work(index: int) -> None:
        for step in range(20):
            seq = index * 20 + step
            try:
                journal.commit(Gone(seq, KEY))
            except JournalError:
                with lock:
                    failed.add(seq)
            else:
                with lock:
                    acknowledged.add(seq)

    in_threads(8, work)
    journal.close()
    monkeypatch.undo()
    records, problems = read(path)
    assert problems == []
    assert {record.seq for record in records} == acknowledged
    assert failed
    assert acknowledged
    assert len(acknowledged) + len(failed) == 160
