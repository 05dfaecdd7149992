"""One packet, one program: every row of rows_*.py, the whole frame compared."""

from __future__ import annotations

import pytest

from tests.bpf.rig import Rig
from tests.bpf.rows import ROWS
from tests.packets import difference


@pytest.mark.parametrize("name", ROWS)
def test_row(rig: Rig, name: str) -> None:
    row = ROWS[name]
    if row.before is not None:
        row.before(rig)
    done = rig.run(row.program, row.frame, row.ifindex)
    assert (done.code, done.counted) == (row.code, dict.fromkeys((row.verdict, *row.events), 1))
    wanted = row.frame if row.wanted is None else row.wanted
    assert done.frame == wanted, difference(done.frame, wanted)
