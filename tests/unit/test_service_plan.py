"""The plan of load-balancer writes, carried out one by one on a model of the maps that is as strict as the kernel."""

from __future__ import annotations

import pytest

from datapath.abi import BACKEND_DRAINING
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import (
    MAX_ID,
    DeleteBackend,
    Frontend,
    GoneBackend,
    Offer,
    Programmed,
    PutBackend,
    PutService,
)
from datapath.services import apply, plan, plan_changes
from tests.unit.service_maps import BACKENDS, VIPS, MapModel, Wanted, adopt, carry_out, offer

ONE, TWO, THREE = BACKENDS[:3]


def test_no_endpoints_keep_the_service_so_that_callers_are_refused() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(ONE)}, {})
    carry_out(maps, programmed, {VIPS[0]: offer()}, {VIPS[0]: offer(ONE)})
    assert maps.reached(VIPS[0]) == ()
    assert maps.services[ServiceKey(*VIPS[0], 0)] == ServiceEntry(service_id=1)


def test_the_api_servers_frontend_is_never_emptied_even_after_a_restart() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(ONE), VIPS[1]: offer(TWO)}, {})
    empty: Wanted = {VIPS[0]: offer(draining=(ONE,)), VIPS[1]: offer()}
    for restarted in (False, True):
        state = adopt(maps) if restarted else programmed
        apply(plan(state, empty, never_empty={VIPS[0]}), maps, state)
        assert (maps.reached(VIPS[0]), maps.reached(VIPS[1])) == ((ONE,), ())
        assert plan_changes(state, empty, never_empty={VIPS[0]}) == []
    state = adopt(maps)
    apply(plan(state, {VIPS[0]: offer(THREE)}, never_empty={VIPS[0]}), maps, state)
    assert maps.reached(VIPS[0]) == (THREE,)
    fresh = Programmed()
    apply(plan(fresh, {VIPS[3]: offer()}, never_empty={VIPS[3]}), MapModel(), fresh)
    assert fresh.slots[VIPS[3]][0].count == 0, "it never had any"


def test_a_draining_backend_keeps_its_id_and_takes_no_new_flows() -> None:
    """It drains, comes back under the same id, drains again, and goes."""
    maps, programmed = MapModel(), Programmed()
    both, drains, gone = {VIPS[0]: offer(ONE, TWO)}, {VIPS[0]: offer(ONE, draining=(TWO,))}, {VIPS[0]: offer(ONE)}
    carry_out(maps, programmed, both, {})
    number = maps.belonging(VIPS[0])[TWO]
    assert programmed.take_gone() == []
    for held, wanted in ((both, drains), (drains, both), (both, drains)):
        carry_out(maps, programmed, wanted, held)
        flags = 0 if wanted is both else BACKEND_DRAINING
        assert maps.backends[number] == BackendEntry(*TWO, 1, flags)
        expected = [] if wanted is both else [GoneBackend(number, *TWO, "TCP", "draining")]
        assert programmed.take_gone() == expected
    carry_out(maps, programmed, gone, drains)
    assert number not in maps.backends
    assert programmed.take_gone() == [GoneBackend(number, *TWO, "TCP", "removed")]


def test_a_backend_that_drains_before_it_was_ever_there_is_not_written() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(draining=(ONE,))}, {})
    assert not maps.backends


def test_all_draining_means_no_new_flows_and_the_flag_comes_last() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(ONE)}, {})
    ops = plan(programmed, {VIPS[0]: offer(draining=(ONE,))})
    kinds = [type(op).__name__ for op in ops]
    assert kinds == ["PutService", "MarkAddress", "PutBackend", "DeleteService"]
    carry_out(maps, programmed, {VIPS[0]: offer(draining=(ONE,))}, {VIPS[0]: offer(ONE)})


def test_a_changed_affinity_is_one_write() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(ONE, TWO)}, {})
    ops = plan(programmed, {VIPS[0]: offer(ONE, TWO, affinity_s=10800)})
    assert ops == [PutService(ServiceKey(*VIPS[0], 0), ServiceEntry(1, 0, 2, 0, 10800))]


def test_backend_ids_are_not_reused_soon() -> None:
    maps, programmed = MapModel(), Programmed()
    for number in range(300):
        apply(plan(programmed, {VIPS[0]: offer(BACKENDS[number % 2])}), maps, programmed)
        programmed = adopt(maps) if number % 7 == 3 else programmed
    assert len(maps.ever) == len(set(maps.ever)) == 300


def test_service_ids_are_not_reused_soon_and_their_counters_go() -> None:
    maps, programmed = MapModel(), Programmed()
    stays, comes_and_goes, seen = VIPS[0], VIPS[1], set()
    for number in range(50):
        apply(plan(programmed, {stays: offer(), comes_and_goes: offer(ONE)}), maps, programmed)
        seen.add(maps.services[ServiceKey(*comes_and_goes, 0)].service_id)
        apply(plan(programmed, {stays: offer(*BACKENDS[: 1 + number % 2])}), maps, programmed)
        assert len(maps.flow_counters) == 1
    assert len(seen) == 50


def test_ids_come_after_those_that_conntrack_still_holds_and_wrap_around_them() -> None:
    entry = BackendEntry(*ONE, 42)
    programmed = Programmed.adopt({}, {}, {}, past_ids=[3, 41])
    assert plan(programmed, {VIPS[0]: offer(ONE)})[0] == PutBackend(42, entry, VIPS[0])
    programmed = Programmed.adopt({}, {}, {}, past_ids=[MAX_ID, 1, 2])
    ops = plan(programmed, {VIPS[0]: offer(ONE)})
    assert ops[0] == PutBackend(3, BackendEntry(*ONE, 3), VIPS[0])
    apply(ops, MapModel(), programmed)
    assert (programmed.last_backend_id, programmed.last_service_id) == (3, 3)


def test_frontends_do_not_share_backends() -> None:
    """Each has the address under an id of its own, so that an id tells who still has it."""
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: offer(ONE), VIPS[1]: offer(ONE)}, {})
    assert sorted(maps.ever) == [1, 2]
    number = maps.belonging(VIPS[0])[ONE]
    carry_out(maps, programmed, {VIPS[1]: offer(ONE)}, {VIPS[1]: offer(ONE)})
    assert number not in maps.backends
    assert programmed.take_gone() == [GoneBackend(number, *ONE, "TCP", "removed")]
    last = maps.belonging(VIPS[1])[ONE]
    assert DeleteBackend(last, VIPS[1]) in plan(programmed, {})


def test_one_changed_endpoint_costs_a_few_writes_and_a_stable_backend_keeps_its_slot() -> None:
    maps, programmed = MapModel(), Programmed()
    apply(plan(programmed, {VIPS[0]: offer(*BACKENDS[:5])}), maps, programmed)
    ops = plan(programmed, {VIPS[0]: offer(*BACKENDS[1:5], BACKENDS[5])})
    assert len(ops) == 3  # new backend, its slot, old backend gone
    ops = plan(programmed, {VIPS[0]: offer(*BACKENDS[1:5])})
    assert len(ops) == 4  # the last moves into the hole, count, surplus slot, old backend


def test_one_changed_endpoint_among_many_services_is_a_few_writes() -> None:
    """2,000 services x 10 here (10,000 on real maps in perf/service_sync.py)."""

    def address(number: int) -> str:
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    wanted: dict[Frontend, Offer] = {
        (address(s), 80, "TCP"): offer(*((address(s * 10 + n), 8080) for n in range(10))) for s in range(2_000)
    }
    maps, programmed = MapModel(), Programmed()
    apply(plan(programmed, wanted), maps, programmed)
    assert maps.writes == 2_000 * (10 + 10 + 1 + 1)
    frontend = (address(1234), 80, "TCP")
    changed = offer(*wanted[frontend][0][1:], ("192.0.2.1", 1000))
    before = maps.writes
    apply(plan_changes(programmed, {frontend: changed}), maps, programmed)
    assert maps.writes - before == 3
    state = adopt(maps)
    assert plan(state, {**wanted, frontend: changed}) == [], "a second start writes nothing"


def test_planning_changes_nothing() -> None:
    programmed = Programmed()
    assert plan(programmed, {VIPS[0]: offer(ONE)}) == plan(programmed, {VIPS[0]: offer(ONE)})


@pytest.mark.parametrize("bad", [("10.96.0.1", 80, "ICMP"), ("10.96.0.1", 80, "tcp")])
def test_other_protocols_are_refused(bad: Frontend) -> None:
    with pytest.raises(ValueError, match="TCP"):
        plan(Programmed(), {bad: offer()})


def test_more_backends_than_slots_are_refused() -> None:
    many = tuple((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 80) for n in range(1 << 16))
    with pytest.raises(ValueError, match="65535"):
        plan(Programmed(), {VIPS[0]: offer(*many)})
