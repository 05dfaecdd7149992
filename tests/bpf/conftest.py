"""Fixtures of the bpf tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath import loader
from datapath.loader import Programs
from tests.bpf.rig import Rig
from tests.testbed.bpffs import mounted


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpf file system of this session's own."""
    with mounted(tmp_path_factory.mktemp("bpffs")) as folder:
        yield folder


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
