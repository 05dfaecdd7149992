"""Where the cgroup v2 hierarchy is mounted, from /proc/self/mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from datapath import cgroup


@pytest.fixture
def hierarchy(tmp_path: Path) -> Path:
    """A folder that looks like the root of a hierarchy, with a cgroup in it."""
    whole = tmp_path / "the root"
    (whole / "pod").mkdir(parents=True)
    for folder in (whole, whole / "pod"):
        (folder / "cgroup.procs").touch()
    (whole / "pod" / "cgroup.events").touch()
    return whole


def line(path: object, kind: str = "cgroup2", root: str = "/") -> str:
    """One mount; spaces as the kernel writes them."""
    return f"41 31 0:38 {root} {str(path).replace(' ', chr(92) + '040')} rw,relatime shared:4 - {kind} {kind} rw\n"


def test_the_root_is_found(hierarchy: Path) -> None:
    """Beside version 1 hierarchies, mounts of parts of it, and a namespace's view of a cgroup below it."""
    others = line("/sys/fs/cgroup/cpu", "cgroup") + line(hierarchy, root="/pod") + line(hierarchy / "pod")
    assert cgroup.root(others + line(hierarchy)) == hierarchy


@pytest.mark.parametrize("kind", ["cgroup", "tmpfs"])
def test_other_file_systems_are_not(hierarchy: Path, kind: str) -> None:
    assert cgroup.root(line(hierarchy, kind)) is None


def test_what_is_hidden_or_absent_is_not(hierarchy: Path, tmp_path: Path) -> None:
    assert cgroup.root(line(tmp_path / "gone") + line(hierarchy / "pod") + line(tmp_path)) is None
    assert cgroup.root("") is None
