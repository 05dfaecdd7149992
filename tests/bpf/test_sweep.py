"""Flows, clients' choices and counters that are over are deleted from real maps; what changed meanwhile is left."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from datapath import bpfcall
from datapath.abi import CT_ANSWERED, CT_TO_SELF, HAIRPIN_ADDRESS, MAPS
from datapath.ageing import SECOND_NS, Orphans
from datapath.flows import Affinity, AffinityKey, Flow, FlowCounters, Translation
from datapath.maps import Maps
from datapath.sweep import FlowTable, sweep_affinity, sweep_counters, sweep_flows
from datapath.table import Number, Table

NOW = 100_000 * SECOND_NS
HOUR = 3600 * SECOND_NS


class Racing(Table[Any, Any]):
    """A table in which something happens right after it was walked."""

    after_the_walk: Callable[[], object] = staticmethod(lambda: None)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        yield from super().batches()
        self.after_the_walk()


@pytest.fixture
def maps() -> Iterator[Any]:
    """The tables that are swept, in maps of their own."""
    kinds = {
        "conntrack": (Flow, Translation),
        "affinity": (AffinityKey, Affinity),
        "flow_counters": (Number, FlowCounters),
    }
    made = SimpleNamespace()
    for spec in MAPS:
        if spec.name in kinds:
            fd = bpfcall.map_create(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.name)
            setattr(made, spec.name, Racing(fd, spec, *kinds[spec.name]))
    yield made
    for name in kinds:
        os.close(getattr(made, name).fd)


def pair(port: int, seen: int, backend_id: int = 7, flags: int = CT_ANSWERED) -> list[tuple[Flow, Translation]]:
    """A TCP flow of the pod 10.1.0.10 from `port`."""
    there, back = (
        Flow("10.1.0.10", port, "10.96.0.10", 80, "TCP", 0),
        Flow("10.9.0.30", 8080, "10.1.0.10", port, "TCP", 1),
    )
    return [
        (there, Translation("10.9.0.30", 8080, port, 1, backend_id)),
        (back, Translation("10.96.0.10", 80, port, 1, backend_id, seen, flags)),
    ]


def content(table: Table[Any, Any]) -> dict[Any, Any]:
    return dict(table.items())


def test_both_halves_go_together_and_live_flows_stay(maps: Any) -> None:
    lives, over = pair(1, NOW - HOUR), pair(2, NOW - 7 * HOUR)
    maps.conntrack.put_many([*lives, *over])
    swept = sweep_flows(cast(Maps, maps), NOW, Orphans())
    assert (swept.entries, swept.expired, swept.orphaned) == (4, 1, 0)
    assert swept.flows == {7: 2}
    assert content(maps.conntrack) == dict(lives)


def test_a_pod_that_calls_itself_by_another_address(maps: Any) -> None:
    """The reverse entry does not know who called; the pair is whole all the same, and goes as a whole."""
    there = Flow("10.1.0.10", 5, "10.96.0.10", 80, "TCP", 0), Translation("10.2.0.10", 8080, 5, 1, 7, flags=CT_TO_SELF)
    back = Flow("10.2.0.10", 8080, HAIRPIN_ADDRESS, 5, "TCP", 1), Translation("10.96.0.10", 80, 5, 1, 7, NOW, 0)
    maps.conntrack.put_many([there, back])
    first = sweep_flows(cast(Maps, maps), NOW, Orphans())
    assert sweep_flows(cast(Maps, maps), NOW, first.orphans).orphaned == 0
    assert content(maps.conntrack) == dict([there, back])
    assert sweep_flows(cast(Maps, maps), NOW + HOUR, Orphans()).expired == 1
    assert content(maps.conntrack) == {}


def test_a_flow_that_wakes_up_is_left(maps: Any) -> None:
    """And one whose port was taken by a new flow meanwhile."""
    wakes, anew = pair(1, NOW - 7 * HOUR), pair(2, NOW - 7 * HOUR)
    maps.conntrack.put_many([*wakes, *anew])
    now = [*pair(1, NOW), (anew[0][0], Translation("10.9.0.31", 8080, 2, 1, 8))]
    maps.conntrack.after_the_walk = lambda: maps.conntrack.put_many(now)
    swept = sweep_flows(cast(Maps, maps), NOW, Orphans())
    assert swept.expired == 1
    assert content(maps.conntrack) == dict(now)


def test_a_new_flow_between_the_two_deletes_keeps_its_entry(maps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds no forward entry, and the reverse entry of the old flow idle: it takes that over."""
    over, anew = pair(1, NOW - 7 * HOUR), pair(1, NOW)
    maps.conntrack.put_many(over)
    delete = FlowTable.delete

    def delete_and_open(table: FlowTable, key: bytes) -> None:
        delete(table, key)
        if key == over[0][0].encode():
            maps.conntrack.put_many(anew)

    monkeypatch.setattr(FlowTable, "delete", delete_and_open)
    assert sweep_flows(cast(Maps, maps), NOW, Orphans()).expired == 0
    assert content(maps.conntrack) == dict(anew)


def test_orphans_get_one_sweep_to_find_their_twin(maps: Any) -> None:
    no_answer, no_question, found = pair(1, NOW)[0], pair(2, NOW)[1], pair(3, NOW)
    maps.conntrack.put_many([no_answer, no_question, found[0]])
    first = sweep_flows(cast(Maps, maps), NOW, Orphans())
    assert (first.orphaned, len(first.orphans.forwards), len(first.orphans.reverses)) == (0, 2, 1)
    maps.conntrack.put_many([found[1], pair(4, NOW)[0]])
    second = sweep_flows(cast(Maps, maps), NOW, first.orphans)
    assert second.orphaned == 2
    assert content(maps.conntrack) == dict([*found, pair(4, NOW)[0]])


@pytest.mark.parametrize("half", [0, 1])
def test_an_orphan_that_finds_its_twin_at_the_last_moment_is_left(maps: Any, half: int) -> None:
    both = pair(1, NOW)
    maps.conntrack.put_many([both[half]])
    first = sweep_flows(cast(Maps, maps), NOW, Orphans())
    maps.conntrack.after_the_walk = lambda: maps.conntrack.put_many(both)
    assert sweep_flows(cast(Maps, maps), NOW, first.orphans).orphaned == 0
    assert content(maps.conntrack) == dict(both)


def test_choices_of_removed_backends_go_at_the_second_look(maps: Any) -> None:
    def entry(client: int, service_id: int, backend_id: int) -> tuple[AffinityKey, Affinity]:
        return AffinityKey(f"10.1.0.{client}", service_id), Affinity(backend_id, NOW)

    kept, no_backend, no_service = entry(1, 1, 7), entry(2, 1, 8), entry(3, 2, 7)
    maps.affinity.put_many([kept, no_backend, no_service, entry(4, 1, 8)])
    programmed = (lambda number: number == 1), (lambda number: number == 7)
    stale = sweep_affinity(cast(Maps, maps), *programmed, frozenset())
    assert (len(stale), len(content(maps.affinity))) == (3, 4)
    chooses_anew = entry(4, 1, 7)
    maps.affinity.after_the_walk = lambda: maps.affinity.put_many([chooses_anew])
    sweep_affinity(cast(Maps, maps), *programmed, stale)
    assert content(maps.affinity) == dict([kept, chooses_anew])


def test_counters_of_removed_frontends_go_at_the_second_look(maps: Any) -> None:
    maps.flow_counters.put_many([(Number(number), FlowCounters(number, 0)) for number in (1, 2)])
    stale = sweep_counters(cast(Maps, maps), lambda number: number == 1, frozenset())
    assert stale == {2} and len(content(maps.flow_counters)) == 2
    sweep_counters(cast(Maps, maps), lambda number: number == 1, stale)
    assert content(maps.flow_counters) == {Number(1): FlowCounters(1, 0)}
