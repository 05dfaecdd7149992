"""One packet, one program: every row of rows_*.py, the whole frame compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from datapath.abi import Verdict
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


ELSEWHERE = {
    Verdict.VERDICT_HAIRPIN_ANSWER: "test_flows.py",
    Verdict.VERDICT_DIRECT_NAT: "test_collisions.py",
    Verdict.EVENT_STALE_PAIR: "test_collisions.py",
    Verdict.EVENT_NEW_SOURCE_PORT: "test_collisions.py",
    Verdict.EVENT_REVERSE_LOST: "test_flows.py",
    Verdict.EVENT_FLOW_MOVED: "test_backends.py",
    Verdict.DROP_BACKEND_REMOVED: "test_backends.py",
    Verdict.EVENT_REFUSAL_LIMITED: "test_refusals.py",
    Verdict.EVENT_FRAGMENT_LOST: "test_fragments.py",
    Verdict.VERDICT_SERVICE_MAC: "test_next_hops.py",
    Verdict.VERDICT_SECOND_PASS: "test_live.py: PROG_TEST_RUN cannot set tc_index",
}
# What no packet can bring about, and why.
NOWHERE = {
    Verdict.VERDICT_FOREIGN_SOURCE: "retired",
    Verdict.VERDICT_SERVICE_FIB: "retired",
    Verdict.VERDICT_SOCKET: "socket hooks: tests/netns",
    Verdict.VERDICT_SOCKET_ANSWER: "socket hooks: tests/netns",
    Verdict.DROP_CONNTRACK: "only when the kernel has no memory: an LRU map is never full",
}


def test_every_verdict_is_met_by_a_test() -> None:
    """A new number needs a row, a test in the file named here that uses it, or a reason why it cannot have one."""
    by_rows = {number for row in ROWS.values() for number in (row.verdict, *row.events)}
    assert by_rows | ELSEWHERE.keys() | NOWHERE.keys() == set(Verdict)
    assert not by_rows & NOWHERE.keys()
    for verdict, name in ELSEWHERE.items():
        text = (Path(__file__).parent / name.partition(":")[0]).read_text()
        assert f"V.{verdict.name}" in text, f"{verdict.name} is not in {name}"
