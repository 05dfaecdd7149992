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

from datapath import loader
from datapath.loader import PROGRAMS, TC_PROGRAMS
from tests import guest_tier
from tests.testbed import kernels
from tests.testbed.bpffs import GIVEN_VARIABLE, mounted

ON_EACH_KERNEL = pytest.mark.parametrize(
    "series", [pytest.param(series, marks=pytest.mark.kernel(series)) for series in kernels.SUITES]
)
# By folder: the first is where the fixtures of ROWS look for programs to adopt.
VARIANTS = {"dragline": PROGRAMS, "socket-lb-off": TC_PROGRAMS}
# Where the kernel has a part: whole frames by PROG_TEST_RUN, packets and sockets through the attached programs. The
# rest of the tier is as true here as on the running kernel, and emulation makes a second of it fifteen.
ROWS = [
    "tests/bpf/test_rows.py",
    "tests/bpf/test_refusals.py",
    "tests/bpf/test_live.py",
    "tests/netns/test_socket_lb.py",
]


@pytest.fixture(autouse=True)
def agents_log() -> None:
    """No agents here: the two nodes of the tier's other tests need not come up for these."""


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bpf file system on which nothing is pinned before the first test: a compile is dear in a guest."""
    with mounted(tmp_path_factory.mktemp("bpffs")) as folder:
        yield folder


@ON_EACH_KERNEL
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_program_passes_the_verifier(series: str, variant: str, bpffs: Path) -> None:
    """Compiled there, as the agent does it. A refusal carries the verifier's log."""
    assert platform.release().startswith(f"{series}.")
    with loader.load(bpffs / variant, specs=VARIANTS[variant]) as programs:
        assert programs.compiled


@ON_EACH_KERNEL
def test_traffic_is_treated_alike(series: str, bpffs: Path) -> None:
    """The tests that the running kernel's row of the matrix passes, with the programs of the test before."""
    assert platform.release().startswith(f"{series}.")
    outer = {name: value for name, value in os.environ.items() if name != guest_tier.REPORT_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", *ROWS],
        cwd=guest_tier.CHECKOUT,
        env={**outer, "REQUIRE_TIERS": "bpf,netns", GIVEN_VARIABLE: str(bpffs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " skipped" not in done.stdout, done.stdout
