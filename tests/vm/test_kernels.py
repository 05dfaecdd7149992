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
from tests.testbed import kernels

ON_EACH_KERNEL = pytest.mark.parametrize(
    "series", [pytest.param(series, marks=pytest.mark.kernel(series)) for series in kernels.SUITES]
)
# The loader's own tests compile ten times, which is a minute of emulation; a build's life is the same on every kernel.
ELSEWHERE = ["tests/bpf/test_loader.py"]


@pytest.fixture(autouse=True)
def agents_log() -> None:
    """No agents here: the two nodes of the tier's other tests need not come up for these."""


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    """A bpf file system on which nothing is pinned."""
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@ON_EACH_KERNEL
def test_every_program_passes_the_verifier(series: str, bpffs: Path) -> None:
    """A refusal carries the verifier's log."""
    assert platform.release().startswith(f"{series}.")
    with loader.load(bpffs / "dragline") as programs:
        assert programs.compiled
        assert all(bpfcall.prog_map_ids(programs.fd(spec.name)) is not None for spec in PROGRAMS)


@ON_EACH_KERNEL
def test_frames_are_treated_alike(series: str) -> None:
    """The bpf tier inside: whole frames by PROG_TEST_RUN, and real packets through the attached programs."""
    assert platform.release().startswith(f"{series}.")
    outer = {name: value for name, value in os.environ.items() if name != guest_tier.REPORT_VARIABLE}
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *(f"--ignore={path}" for path in ELSEWHERE)]
    done = subprocess.run(
        [*command, "tests/bpf"],
        cwd=guest_tier.CHECKOUT,
        env={**outer, "REQUIRE_TIERS": "bpf"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
