"""What the agent says of the conntrack table after its sweeps."""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace
from typing import cast

import pytest

from agent import conntrack_ageing
from agent.conntrack_ageing import ConntrackAgeing
from agent.service_sync import ServiceSync
from datapath.abi import Verdict
from datapath.ageing import Orphans
from datapath.maps import Maps
from datapath.sweep import Swept

NOTHING = dict.fromkeys(Verdict, 0)


class Sweeps:
    """The datapath's sweeps: what conntrack holds, and which others were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = 0
        self.error: OSError | None = None
        self.earlier: list[Orphans] = []
        self.others = 0
        self.counts = dict(NOTHING)
        for name in ("sweep_flows", "sweep_affinity", "sweep_counters"):
            monkeypatch.setattr(conntrack_ageing, name, getattr(self, name))

    def sweep_flows(self, maps: object, now_ns: int, earlier: Orphans) -> Swept:
        del maps
        assert now_ns > 0
        if self.error is not None:
            raise self.error
        self.earlier.append(earlier)
        return Swept(self.entries, {7: 3}, 0, 0, Orphans(frozenset({b"%d" % len(self.earlier)})))

    def sweep_affinity(self, *given: object) -> frozenset[tuple[bytes, bytes]]:
        self.others += len(given) > 0
        return frozenset()

    def sweep_counters(self, *given: object) -> frozenset[int]:
        self.others += len(given) > 0
        return frozenset()


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps(monkeypatch)


def ageing(sweeps: Sweeps, synced: bool = True) -> ConntrackAgeing:
    maps = SimpleNamespace(conntrack=SimpleNamespace(capacity=1000), counters=lambda: dict(sweeps.counts))
    services = SimpleNamespace(synced=synced, has_service=bool, has_backend=bool)
    return ConntrackAgeing(cast(Maps, maps), cast(ServiceSync, services))


def swept(one: ConntrackAgeing) -> list[str]:
    """The problems after another sweep."""
    asyncio.run(one.sweep())
    return one.problems()


def test_a_full_table_is_a_problem(sweeps: Sweeps) -> None:
    one = ageing(sweeps)
    assert one.problems() == []
    sweeps.entries = 899
    assert swept(one) == []
    sweeps.entries = 900
    (text,) = swept(one)
    assert "900 of 1000" in text and "90%" in text
    assert (one.figures.entries, one.figures.capacity, one.figures.flows) == (900, 1000, {7: 3})


@pytest.mark.parametrize("verdict", [Verdict.EVENT_REVERSE_LOST, Verdict.DROP_CONNTRACK])
def test_losses_are_a_problem_while_they_are_recent(
    sweeps: Sweeps, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ageing(sweeps)
    sweeps.counts[verdict] = 5
    assert swept(one) == [], "what was lost before this agent is nobody's news"
    sweeps.counts[verdict] = 8
    (text,) = swept(one)
    assert "(3 times)" in text and "too small" in text
    monkeypatch.setattr(conntrack_ageing, "LOSSES_SHOWN_S", 0.0)
    assert swept(one) == []


def test_a_sweep_that_fails_is_told_and_the_next_one_goes_on(sweeps: Sweeps) -> None:
    one = ageing(sweeps)
    assert swept(one) == []
    sweeps.error = OSError(errno.ENOMEM, "no memory")
    (text,) = swept(one)
    assert "cannot be swept" in text and "no memory" in text
    sweeps.error = None
    assert swept(one) == []
    assert sweeps.earlier == [Orphans(), Orphans(frozenset({b"1"}))], "each sweep knows the orphans of the last one"


def test_until_the_services_are_known_nothing_counts_as_removed(sweeps: Sweeps) -> None:
    swept(ageing(sweeps, synced=False))
    assert sweeps.others == 0
    swept(ageing(sweeps))
    assert sweeps.others == 2
