"""The programs on every kernel series of the matrix: all pass its verifier, and treat each frame as they do elsewhere.

The running kernel's row of the matrix is the bpf tier itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datapath import bpfcall, loader
from datapath.loader import PROGRAMS
from tests import guest_tier
from tests.bpf.conftest import BPFFS_VARIABLE
from tests.testbed import kernels

ON_EACH_KERNEL = pytest.mark.parametrize(
    "series", [pytest.param(series, marks=pytest.mark.kernel(series)) for series in kernels.SUITES]
)
# The loader's own tests compile ten times, which is a minute of emulation; a build's life is the same on every kernel.
ELSEWHERE = ["tests/bpf/test_loader.py"]


@pytest.fixture(autouse=True)
def agents_log() -> None:
    """No agents here: the two nodes of the tier's other tests need not come up for these."""


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpf file system on which nothing is pinned before the first test: a compile is dear in a guest."""
    folder = tmp_path_factory.mktemp("bpffs")
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@ON_EACH_KERNEL
def test_every_program_passes_the_verifier(series: str, bpffs: Path) -> None:
    """A refusal carries the verifier's log."""
    assert platform.release().startswith(f"{series}.")
    with loader.load(bpffs / "dragline") as programs:
        assert programs.compiled
        assert all(bpfcall.prog_map_ids(programs.fd(spec.name)) is not None for spec in PROGRAMS)


@ON_EACH_KERNEL
def test_frames_are_treated_alike(series: str, bpffs: Path) -> None:
    """The bpf tier inside: whole frames by PROG_TEST_RUN, and real packets through the attached programs."""
    assert platform.release().startswith(f"{series}.")
    outer = {name: value for name, value in os.environ.items() if name != guest_tier.REPORT_VARIABLE}
    ignored = (f"--ignore={path}" for path in ELSEWHERE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", *ignored, "tests/bpf"],
        cwd=guest_tier.CHECKOUT,
        env={**outer, "REQUIRE_TIERS": "bpf", BPFFS_VARIABLE: str(bpffs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
