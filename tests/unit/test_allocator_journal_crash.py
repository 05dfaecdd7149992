"""Journal: compaction beside commits, and the death of the process before each of its system calls."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from allocator.attachments import Cooling, Gone, Snapshot, Tombstone
from allocator.journal import Journal, JournalError
from tests.unit.journals import BOOT, KEY, RECORDS, in_threads, read, starts, whole


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_compaction_keeps_the_snapshot_and_what_is_younger(path: Path) -> None:
    journal, _ = Journal.open(path, BOOT)
    for record in RECORDS:
        journal.commit(record)
    before = journal.size
    snapshot = [Snapshot(4), Tombstone(5, "c", 7)]
    journal.compact(snapshot)
    assert journal.size == path.stat().st_size < before
    journal.commit(Tombstone(8, "d", 8))
    journal.close()
    assert read(path) == ([*snapshot, RECORDS[4], RECORDS[5], Tombstone(8, "d", 8)], [])
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["journal"]


def test_compaction_wants_its_snapshot(path: Path) -> None:
    with closing(Journal.open(path, BOOT)[0]) as journal:
        for records in ([], [RECORDS[0]]):
            with pytest.raises(ValueError, match="Snapshot"):
                journal.compact(records)


def test_due_after_growth_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allocator.journal.COMPACT_AT_BYTES", 4000)
    with closing(Journal.open(path, BOOT)[0]) as journal:
        assert not journal.due
        journal.commit(*(Tombstone(seq, "c" * 64, 0) for seq in range(60)))
        assert journal.due
        journal.compact([Snapshot(60)])
        assert not journal.due


def test_no_commit_is_lost_while_compactions_run(path: Path) -> None:
    journal, _ = Journal.open(path, BOOT)
    stop = threading.Event()
    lock = threading.Lock()
    seq = [0]

    def work(index: int) -> None:
        if index == 0:
            while not stop.is_set():
                journal.compact([Snapshot(0)])
            return
        for _ in range(60):
            with lock:
                seq[0] += 1
                mine = seq[0]
            journal.commit(Gone(mine, KEY))
        if mine >= 240:
            stop.set()

    threading.Timer(10, stop.set).start()
    try:
        in_threads(5, work)
    finally:
        stop.set()
        journal.close()
    records, problems = read(path)
    assert problems == []
    assert sorted(record.seq for record in records if isinstance(record, Gone)) == list(range(1, 241))


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_compaction_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    journal, _ = Journal.open(path, BOOT)
    journal.commit(RECORDS[0])
    with monkeypatch.context() as patched:
        patched.setattr(os, call, _no_space)
        with pytest.raises(JournalError, match="cannot compact"):
            journal.compact([Snapshot(9)])
    journal.commit(RECORDS[1])
    journal.close()
    assert read(path) == (RECORDS[:2], [])
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["journal"]


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STEPS = ("open", "write", "fsync", "fdatasync", "ftruncate", "link", "replace", "unlink", "dup2", "rename")


def die_at(step: int, work: Callable[[Callable[[int], None]], None]) -> tuple[list[int], bool]:
    """Run `work` in a child that dies (like kill -9) before its `step`-th system call.

    Returns what the child had acknowledged by then, and whether it came to its end.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = [0]

        def guard(genuine: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                count[0] += 1
                if count[0] == step:
                    os._exit(9)
                return genuine(*args, **kwargs)

            return call

        tell = os.write
        for name in STEPS:
            setattr(os, name, guard(getattr(os, name)))
        try:
            work(lambda number: (tell(writer, bytes([number])), None)[1])
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        acknowledged = list(pipe.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return acknowledged, status == 0


def every_death(work: Callable[[Callable[[int], None]], None]) -> Iterator[list[int]]:
    """What was acknowledged, for a death at each step of `work` in turn, until it comes through."""
    for step in range(1, 200):
        acknowledged, finished = die_at(step, work)
        yield acknowledged
        if finished:
            assert step > 10
            return
    raise AssertionError("work never ends")


def test_death_at_every_step_loses_nothing_acknowledged(path: Path) -> None:
    def life(acknowledge: Callable[[int], None]) -> None:
        journal, _ = Journal.open(path, BOOT)
        journal.commit(Gone(1, KEY))
        acknowledge(1)
        journal.commit(Gone(2, KEY), Gone(3, KEY))
        acknowledge(2)
        acknowledge(3)
        journal.compact([Snapshot(1), Cooling(2, ())])  # what was 1 is 2 now
        journal.commit(Gone(4, KEY))
        acknowledge(4)
        Journal.open(path.with_name("fresh"), BOOT)[0].commit(Gone(1, KEY))

    for acknowledged in every_death(life):
        records, problems = read(path)
        present = {record.seq for record in records}
        assert set(acknowledged) - {1} <= present
        assert 1 not in acknowledged or 1 in present
        assert all("torn" in problem for problem in problems)
        for leftover in path.parent.iterdir():
            leftover.unlink()


def test_death_at_every_step_of_a_repair_or_a_reboot(path: Path) -> None:
    data = whole(path)
    damaged = bytearray(data)
    damaged[starts(data)[2] + 9] ^= 1
    for content, boot, expected in ((bytes(damaged), BOOT, RECORDS[:1] + RECORDS[2:]), (data, "other", [])):
        path.write_bytes(content)

        def life(acknowledge: Callable[[int], None], boot: str = boot) -> None:
            Journal.open(path, boot)

        for _ in every_death(life):
            assert read(path, boot)[0] == expected
            path.write_bytes(content)
