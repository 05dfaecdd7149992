"""The spool's reader: order, corruption, and files that vanish."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest

from cni.frame import Frame, encode
from cni.spool import done, pending

DEL = Frame("DEL", "c0ffee", "", "eth0", "", "", b"{}", 100)


def spool(folder: Path, name: str, content: bytes, written_ns: int = 1) -> Path:
    path = folder / name
    path.write_bytes(content)
    os.utime(path, ns=(written_ns, written_ns))
    return path


def test_no_folder_is_an_empty_spool(tmp_path: Path) -> None:
    assert pending(tmp_path / "absent") == []


def test_oldest_first_by_writing_then_by_start(tmp_path: Path) -> None:
    rows = [("a-eth0.del", 30, 1), ("b-eth0.del", 10, 9), ("c-eth0.del", 20, 8), ("d-eth0.del", 20, 7)]
    for name, written_ns, started_ns in rows:
        spool(tmp_path, name, encode(replace(DEL, started_ns=started_ns)), written_ns)
    assert [waiting.path.name[0] for waiting in pending(tmp_path)] == ["b", "d", "c", "a"]


def test_done_forgets_a_del_even_twice(tmp_path: Path) -> None:
    path = spool(tmp_path, "c0ffee-eth0.del", encode(DEL))
    (waiting,) = pending(tmp_path)
    assert (waiting.path, waiting.frame) == (path, DEL)
    done(waiting.path)
    done(waiting.path)
    assert pending(tmp_path) == []


def test_drafts_and_other_files_are_left_alone(tmp_path: Path) -> None:
    names = {".c0ffee-eth0.del.17", ".hidden.del", "notes.txt", "x.del.bad"}
    for name in names:
        spool(tmp_path, name, b"half")
    assert pending(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == names


CORRUPT = [b"", b"DRG1", encode(DEL)[:-1], encode(DEL) + b"x", b"\0" * 300, encode(replace(DEL, command="ADD"))]
CORRUPT += [b"x" * (2 << 20)]


@pytest.mark.parametrize("content", CORRUPT, ids=range(len(CORRUPT)))
def test_a_corrupt_file_is_set_aside_reported_and_hides_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    spool(tmp_path, "bad-eth0.del", content)
    spool(tmp_path, "good-eth0.del", encode(DEL))
    with caplog.at_level(logging.ERROR):
        assert [waiting.path.name for waiting in pending(tmp_path)] == ["good-eth0.del"]
    assert (tmp_path / "bad-eth0.del.bad").read_bytes() == content
    assert "bad-eth0.del.bad" in caplog.text
    caplog.clear()
    assert len(pending(tmp_path)) == 1
    assert caplog.text == ""


def test_a_folder_in_a_files_place_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "x.del").mkdir()
    assert pending(tmp_path) == []
    assert (tmp_path / "x.del.bad").is_dir()
