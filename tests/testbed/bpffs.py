"""A bpf file system for a test session."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIVEN_VARIABLE = "DRAGLINE_TESTS_BPFFS"
"""Names a mounted bpffs with the programs pinned, by tests/vm/test_kernels.py: a compile is dear in a guest."""


@contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """A bpffs of the caller's own on `folder`, until the block ends; or the one that the environment names."""
    given = os.environ.get(GIVEN_VARIABLE)
    if given:
        yield Path(given)
        return
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
