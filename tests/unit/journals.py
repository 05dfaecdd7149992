"""A journal with one record of each kind, for the allocator's tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from allocator import framing
from allocator.attachments import (
    AddressLease,
    AnyRecord,
    Attachment,
    AttachmentKey,
    Cooling,
    Detaching,
    Facts,
    Gone,
    Ready,
    Taken,
    Tombstone,
)
from allocator.journal import Journal

BOOT = "11111111-2222-3333-4444-555555555555"
KEY = AttachmentKey("net", "0123456789abcdef", "eth0")
ONE = Attachment.of(KEY, Facts(started_ns=1, pod_name="p"), 0x100000, (AddressLease("pool", "10.0.0.1/24", ""),))
RECORDS: list[AnyRecord] = [
    Taken(1, ONE),
    Ready(2, ONE),
    Tombstone(3, KEY.container_id, 99),
    Detaching(4, KEY),
    Gone(5, KEY),
    Cooling(6, ("10.0.0.7", "fd00::1")),
]


def read(path: Path, boot: str = BOOT) -> tuple[list[AnyRecord], list[str]]:
    journal, records = Journal.open(path, boot)
    journal.close()
    return records, journal.problems


def write(path: Path, *records: AnyRecord) -> None:
    with closing(Journal.open(path, BOOT)[0]) as journal:
        for record in records:
            journal.commit(record)


def in_threads(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def whole(path: Path) -> bytes:
    """A file with RECORDS, one commit each."""
    write(path, *RECORDS)
    return path.read_bytes()


def starts(data: bytes) -> list[int]:
    """Where the header and each record begin, and the end."""
    return [start for start, _ in framing.scan(data).frames] + [len(data)]
