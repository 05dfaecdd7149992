"""Fixtures of the bpf tier."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath import loader
from datapath.loader import Programs
from tests.bpf.rig import Rig

BPFFS_VARIABLE = "DRAGLINE_TESTS_BPFFS"
"""A mounted bpffs to use, for a caller (tests/vm/test_kernels.py) that has the programs pinned there already."""


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpf file system of this session's own, or the caller's."""
    if BPFFS_VARIABLE in os.environ:
        yield Path(os.environ[BPFFS_VARIABLE])
        return
    folder = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="session")
def programs(bpffs: Path) -> Iterator[Programs]:
    """The programs, compiled once for the session."""
    with loader.load(bpffs / "dragline") as loaded:
        yield loaded


@pytest.fixture(scope="session")
def bench(programs: Programs) -> Iterator[Rig]:
    """The bench, made once."""
    made = Rig(programs)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def rig(bench: Rig) -> Rig:
    """The bench with fresh maps."""
    bench.reset()
    return bench
