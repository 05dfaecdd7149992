"""One packet, one program: every row of rows.py, the whole frame compared."""

from __future__ import annotations

import pytest

from datapath.abi import Verdict
from tests.bpf.rig import REDIRECT, Rig
from tests.bpf.rows import ROWS, SYN, V, web
from tests.packets import ON_LINK, difference


@pytest.mark.parametrize("name", ROWS)
def test_row(rig: Rig, name: str) -> None:
    row = ROWS[name]
    if row.before is not None:
        row.before(rig)
    done = rig.run(row.program, row.frame, row.ifindex)
    assert (done.code, done.counted) == (row.code, {row.verdict: 1})
    wanted = row.frame if row.wanted is None else row.wanted
    assert done.frame == wanted, difference(done.frame, wanted)


def test_fib_needs_forwarding(rig: Rig) -> None:
    """Where the pod's device does not forward, the fib answers nothing: the kernel resolves by redirect_neigh."""
    web(ON_LINK)(rig)
    rig.forwarding(False)
    try:
        done = rig.run("from_pod", SYN)
    finally:
        rig.forwarding(True)
    assert (done.code, done.counted) == (REDIRECT, {V.VERDICT_SERVICE_NEIGH: 1})


def test_every_verdict_is_met_by_a_test() -> None:
    """A new verdict needs a row (or a reason here why it cannot have one)."""
    elsewhere = {
        V.VERDICT_HAIRPIN_ANSWER: "test_flows.py",
        V.VERDICT_DIRECT_NAT: "test_flows.py",
        V.EVENT_STALE_PAIR: "test_flows.py",
        V.EVENT_NEW_SOURCE_PORT: "test_flows.py",
        V.VERDICT_SECOND_PASS: "test_live.py: PROG_TEST_RUN cannot set tc_index",
        V.DROP_REWRITE: "none: only when the kernel has no memory",
        V.DROP_CONNTRACK: "none: only when the kernel has no memory",
    }
    assert {row.verdict for row in ROWS.values()} | elsewhere.keys() == set(Verdict)
