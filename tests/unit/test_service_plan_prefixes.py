"""After every single write of every plan, also of one that was cut short, callers find what they may find."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_ENDPOINTS, ADDRESS_FRONTEND, ADDRESS_NODE_PORT
from datapath.programmed import Frontend, Offer, Programmed
from datapath.services import apply, plan, plan_changes
from tests.unit.service_maps import (
    BACKENDS,
    NODE_SETS,
    NODES,
    VIPS,
    WANTED,
    MapModel,
    Wanted,
    Watch,
    adopt,
    carry_out,
    offer,
    writes,
)

Round = tuple[Wanted, frozenset[str]]
ROUNDS = st.tuples(WANTED, NODE_SETS)


@given(st.lists(ROUNDS, min_size=1, max_size=5), st.booleans())
@settings(max_examples=80, deadline=None)
def test_every_step_of_every_change_keeps_backends(rounds: list[Round], restart: bool) -> None:
    maps, programmed = MapModel(), Programmed()
    held: Wanted = {}
    for wanted, nodes in rounds:
        carry_out(maps, programmed, wanted, held, nodes)
        held = wanted
        if restart:
            programmed = adopt(maps)


@given(st.lists(ROUNDS, min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_changes_alone_lead_to_the_same(rounds: list[Round]) -> None:
    maps, programmed = MapModel(), Programmed()
    held: Wanted = {}
    for wanted, nodes in rounds:
        changes: dict[Frontend, Offer | None] = {frontend: None for frontend in held if frontend not in wanted}
        changes |= {frontend: offered for frontend, offered in wanted.items() if held.get(frontend) != offered}
        watch = Watch(maps, wanted, held)
        maps.check = watch.check
        apply(plan_changes(programmed, changes, nodes), maps, programmed)
        maps.check = lambda: None
        maps.assert_is(wanted, nodes, watch.known)
        held = wanted


@given(ROUNDS, ROUNDS, st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_a_plan_cut_short_leaves_an_exact_memory_and_the_next_one_goes_on(
    first: Round, second: Round, cut: int
) -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, first[0], {}, first[1])
    watch = Watch(maps, second[0], first[0])
    maps.check = watch.check
    maps.fails_at = maps.writes + cut
    ids = len(maps.ever)
    with suppress(OSError):
        apply(plan(programmed, *second), maps, programmed)
    begun = adopt(maps)
    assert (programmed.slots, programmed.backends, programmed.marks) == (begun.slots, begun.backends, begun.marks)
    maps.fails_at = -1
    maps.check = Watch(maps, second[0], first[0]).check
    apply(plan(programmed, *second), maps, programmed)
    maps.check = lambda: None
    maps.assert_is(*second, watch.known)
    assert not writes(plan(adopt(maps), *second))
    most = sum(len(set(offered[0])) for offered in second[0].values())
    assert len(maps.ever) - ids <= most, "what was written before the cut was written again"


def test_full_maps_keep_only_new_frontends_out_and_trying_again_costs_no_ids() -> None:
    maps, programmed = MapModel(), Programmed()
    old: Wanted = {VIPS[0]: offer(*BACKENDS[:3])}
    carry_out(maps, programmed, old, {})
    maps.room = 5
    wanted: Wanted = {VIPS[3]: offer(*BACKENDS[:3]), VIPS[0]: offer(*BACKENDS[2:4])}
    for _ in range(3):
        with pytest.raises(OSError, match="full"):
            apply(plan(programmed, wanted), maps, programmed)
        assert sorted(maps.reached(VIPS[0]) or ()) == sorted(BACKENDS[2:4])
        assert VIPS[3][0] not in maps.marks, "not refused while it is not there"
    assert len(maps.ever) == 3 + 1 + 3
    maps.room = 100
    carry_out(maps, programmed, wanted, {})
    apply(plan(programmed, {VIPS[0]: wanted[VIPS[0]]}), maps, programmed)
    assert VIPS[3] not in programmed.slots and len(maps.backends) == 2


def test_what_was_half_written_goes_when_nobody_wants_it_any_more() -> None:
    maps, programmed = MapModel(room=2), Programmed()
    with pytest.raises(OSError, match="full"):
        apply(plan(programmed, {VIPS[0]: offer(*BACKENDS[:3])}), maps, programmed)
    assert maps.backends and maps.services
    apply(plan(programmed, {}), maps, programmed)
    assert not maps.backends and not maps.services and not programmed.promised


CLUSTER_IP = ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP


@pytest.mark.parametrize(
    ("wanted", "flags"),
    [
        pytest.param({VIPS[0]: offer(BACKENDS[0])}, CLUSTER_IP | ADDRESS_ENDPOINTS, id="a ClusterIP"),
        pytest.param({VIPS[0]: offer()}, CLUSTER_IP, id="without endpoints"),
        pytest.param({VIPS[0]: offer(draining=(BACKENDS[0],))}, CLUSTER_IP, id="with draining ones only"),
        pytest.param(
            {VIPS[0]: offer(), VIPS[1]: offer(BACKENDS[0])}, CLUSTER_IP | ADDRESS_ENDPOINTS, id="one of two ports"
        ),
        pytest.param({VIPS[0]: offer(BACKENDS[0], cluster_ip=False)}, ADDRESS_FRONTEND, id="an external address"),
        pytest.param(
            {VIPS[0]: offer(BACKENDS[0], cluster_ip=False), VIPS[1]: offer()}, CLUSTER_IP, id="both at one address"
        ),
        pytest.param({("0.0.0.0", 80, "TCP"): offer(BACKENDS[0])}, 0, id="a NodePort"),
        pytest.param({}, 0, id="nothing"),
    ],
)
@pytest.mark.parametrize("node", [False, True])
def test_what_is_known_of_an_address(wanted: Wanted, flags: int, node: bool) -> None:
    maps, programmed = MapModel(), Programmed()
    address = VIPS[0][0]
    apply(plan(programmed, wanted, [address] if node else []), maps, programmed)
    expected = flags | (ADDRESS_NODE_PORT if node else 0)
    assert maps.marks == ({address: expected} if expected else {})
    apply(plan(programmed, {}), maps, programmed)
    assert maps.marks == {}


def test_nodes_come_and_go_and_cost_what_changed() -> None:
    maps, programmed = MapModel(), Programmed()
    apply(plan(programmed, {VIPS[5]: offer(BACKENDS[0])}, NODES), maps, programmed)
    assert maps.marks == dict.fromkeys(NODES, ADDRESS_NODE_PORT)
    before = maps.writes
    apply(plan_changes(programmed, {}, NODES[1:]), maps, programmed)
    assert maps.writes == before + 1 and maps.marks == dict.fromkeys(NODES[1:], ADDRESS_NODE_PORT)
    assert plan_changes(programmed, {}) == [], "None: they are what they were"
