"""One packet, one program: every row of rows_*.py, the whole frame compared."""

from __future__ import annotations

import pytest

from tests.bpf.rig import REDIRECT, Rig
from tests.bpf.row import V, syn, web
from tests.bpf.rows import ROWS
from tests.packets import CASTS, Cast, difference


@pytest.mark.parametrize("name", ROWS)
def test_row(rig: Rig, name: str) -> None:
    row = ROWS[name]
    if row.before is not None:
        row.before(rig)
    done = rig.run(row.program, row.frame, row.ifindex)
    assert (done.code, done.counted) == (row.code, dict.fromkeys((row.verdict, *row.events), 1))
    wanted = row.frame if row.wanted is None else row.wanted
    assert done.frame == wanted, difference(done.frame, wanted)


@pytest.mark.parametrize("cast", CASTS, ids=lambda cast: cast.name)
def test_fib_needs_forwarding(rig: Rig, cast: Cast) -> None:
    """Where the pod's device does not forward, the fib answers nothing: the kernel resolves by redirect_neigh."""
    web(cast.on_link)(rig)
    rig.forwarding(False)
    try:
        done = rig.run("from_pod", syn(cast))
    finally:
        rig.forwarding(True)
    assert (done.code, done.counted) == (REDIRECT, {V.VERDICT_SERVICE_NEIGH: 1})
