"""Journal: what is committed is read again, whatever happens to the file; a second opener is refused."""

from __future__ import annotations

import fcntl
import os
import random
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest

from allocator import framing, journal_file
from allocator.attachments import Cooling, Snapshot
from allocator.journal import Journal, JournalError, JournalLocked
from tests.unit.journals import BOOT, RECORDS, read, starts, whole, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_records_come_back_in_order(path: Path) -> None:
    write(path, *RECORDS)
    assert read(path) == (RECORDS, [])
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_commit_of_several_records_is_one_piece(path: Path) -> None:
    with closing(Journal.open(path, BOOT)[0]) as journal:
        journal.commit()
        journal.commit(*RECORDS)
        assert journal.size == path.stat().st_size
    assert read(path)[0] == RECORDS


def test_cut_at_every_byte(path: Path) -> None:
    data = whole(path)
    ends = starts(data)[1:]  # of the header and of each record
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        complete = sum(end <= cut for end in ends)
        records, problems = read(path)
        assert records == RECORDS[: max(complete - 1, 0)], cut
        assert bool(problems) == (cut not in ends), cut
        write(path, RECORDS[5])  # put right, and writable
        assert read(path) == ([*records, RECORDS[5]], []), cut


def test_a_flipped_bit_at_every_byte_costs_one_record(path: Path) -> None:
    data = whole(path)
    begins = starts(data)
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        hit = sum(begin <= at for begin in begins) - 2  # -1: the header
        records, problems = read(path)
        assert records == [record for index, record in enumerate(RECORDS) if index != hit], at
        assert problems, at
    assert path.with_name("journal.damaged").exists()


def test_random_garbage_never_raises_and_hides_only_what_it_overwrote(path: Path) -> None:
    data = whole(path)
    begins = starts(data)
    chance = random.Random(7)
    for _ in range(60):
        first = chance.randrange(begins[1], len(data))
        last = min(len(data), first + chance.randrange(1, 200))
        filler = bytes(last - first) if chance.random() < 0.3 else chance.randbytes(last - first)
        path.write_bytes(data[:first] + filler + data[last:])
        untouched = [r for r, b, e in zip(RECORDS, begins[1:], begins[2:], strict=False) if e <= first or b >= last]
        assert [record for record in read(path)[0] if record in untouched] == untouched


def test_a_lost_header_does_not_lose_addresses(path: Path) -> None:
    data = whole(path)
    path.write_bytes(data[starts(data)[1] :])
    records, problems = read(path)
    assert records == RECORDS
    assert "header is missing" in problems[0]
    assert read(path, "another boot")[0] == []  # a header was written: now a reboot shows


def test_zeros_are_no_records(path: Path) -> None:
    """A file system may leave zeros where a write was lost: eight of them must not be a valid empty frame."""
    found = framing.scan(bytes(64))
    assert (found.frames, found.tail) == ([], 0)
    data = whole(path)
    path.write_bytes(data + bytes(64))
    assert read(path)[0] == RECORDS
    with pytest.raises(ValueError, match="does not fit"):
        framing.frame(b"")


def test_the_checksum_covers_the_length() -> None:
    """A shorter length with the checksum of the shorter body is still no frame, nor is any other change of length."""
    body = b"0123456789"
    forged = len(body).to_bytes(4, "little") + crc32(body).to_bytes(4, "little") + body
    assert framing.scan(forged).frames == []
    assert framing.scan(framing.frame(body)).frames == [(0, 18)]


def test_a_record_of_a_later_version_is_reported_not_fatal(path: Path) -> None:
    data = whole(path)
    path.write_bytes(data + framing.frame(b"\x92\xa6future\x01"))
    records, problems = read(path)
    assert records == RECORDS
    assert "none that this version knows" in problems[0]


def test_a_later_format_is_refused(path: Path) -> None:
    path.write_bytes(framing.frame(b"\x93\xa6header\x02" + b"\xa1b"))
    with pytest.raises(JournalError, match="newer Dragline"):
        Journal.open(path, "b")


def test_another_boot_starts_empty_and_keeps_the_old_file(path: Path) -> None:
    data = whole(path)
    records, problems = read(path, "other")
    assert records == []
    assert "another boot" in problems[0]
    assert path.with_name("journal.previous").read_bytes() == data
    assert read(path, "other") == ([], [])


def test_a_second_opener_is_refused_also_after_a_compaction(path: Path) -> None:
    journal, _ = Journal.open(path, BOOT)
    with pytest.raises(JournalLocked, match="another agent"):
        Journal.open(path, BOOT)
    journal.compact([Snapshot(0)])
    with pytest.raises(JournalLocked):
        Journal.open(path, BOOT)
    journal.commit(RECORDS[0])
    journal.close()
    journal.close()
    assert read(path)[0] == [Snapshot(0), RECORDS[0]]
    with pytest.raises(JournalError, match="closed"):
        journal.commit(RECORDS[1])
    with pytest.raises(JournalError, match="closed"):
        journal.compact([Snapshot(0)])


def test_an_opener_that_locked_a_replaced_file_starts_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, RECORDS[0])
    genuine, replaced = fcntl.flock, []

    def slow_flock(fd: int, operation: int) -> None:
        if not replaced:
            fresh = path.with_name("fresh")
            fresh.write_bytes(path.read_bytes())
            replaced.append(fresh.replace(path))
        genuine(fd, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    journal, _ = Journal.open(path, BOOT)
    assert os.path.samestat(os.fstat(journal._fd), path.stat())
    journal.close()


def test_a_missing_folder_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot open"):
        Journal.open(tmp_path / "none" / "journal", BOOT)


def test_a_record_too_large_harms_nobody(path: Path) -> None:
    with closing(Journal.open(path, BOOT)[0]) as journal:
        with pytest.raises(JournalError, match="does not fit"):
            journal.commit(Cooling(1, ("x" * framing.MAX_BODY,)))
        journal.commit(RECORDS[0])
    assert read(path) == (RECORDS[:1], [])


def test_append_finishes_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: genuine(fd, data[:3]))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    journal_file.append(fd, b"0123456789")
    assert journal_file.read(fd) == b"0123456789"
    assert journal_file.read(fd, 2, 5) == b"234"
    os.close(fd)
