"""The plan of load-balancer writes, carried out one by one on a model of the maps that is as strict as the kernel."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import MAX_ID, Backend, DeleteBackend, Frontend, Programmed, PutBackend
from datapath.services import apply, plan, plan_changes
from tests.unit.service_maps import BACKENDS, VIPS, WANTED, MapModel, Wanted, adopt, carry_out


@given(st.lists(WANTED, min_size=1, max_size=6), st.booleans())
@settings(max_examples=100, deadline=None)
def test_every_step_of_every_change_keeps_backends(rounds: list[Wanted], restart: bool) -> None:
    maps, programmed, held = MapModel(), Programmed(), {}
    for wanted in rounds:
        carry_out(maps, programmed, wanted, held)
        held = wanted
        if restart:
            programmed = adopt(maps)


@given(st.lists(WANTED, min_size=2, max_size=5))
@settings(max_examples=50, deadline=None)
def test_changes_alone_lead_to_the_same(rounds: list[Wanted]) -> None:
    maps, programmed = MapModel(), Programmed()
    held: Wanted = {}
    for wanted in rounds:
        changes: dict[Frontend, tuple[Backend, ...] | None] = {
            frontend: None for frontend in held if frontend not in wanted
        }
        changes |= {frontend: backends for frontend, backends in wanted.items() if held.get(frontend) != backends}
        apply(plan_changes(programmed, changes), maps, programmed)
        maps.assert_is(wanted)
        held = wanted


def test_no_endpoints_keep_the_service_so_that_callers_are_refused() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: (BACKENDS[0],)}, {})
    carry_out(maps, programmed, {VIPS[0]: ()}, {})
    assert maps.reached(VIPS[0]) == ()
    assert maps.services[ServiceKey(*VIPS[0], 0)] == ServiceEntry(service_id=1)


def test_the_api_servers_frontend_is_never_emptied_even_after_a_restart() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: (BACKENDS[0],), VIPS[1]: (BACKENDS[1],)}, {})
    empty: Wanted = {VIPS[0]: (), VIPS[1]: ()}
    for restarted in (False, True):
        state = adopt(maps) if restarted else programmed
        apply(plan(state, empty, never_empty={VIPS[0]}), maps, state)
        assert (maps.reached(VIPS[0]), maps.reached(VIPS[1])) == ((BACKENDS[0],), ())
        assert plan_changes(state, empty, never_empty={VIPS[0]}) == []
    state = adopt(maps)
    apply(plan(state, {VIPS[0]: (BACKENDS[2],)}, never_empty={VIPS[0]}), maps, state)
    assert maps.reached(VIPS[0]) == (BACKENDS[2],)
    fresh = Programmed()
    apply(plan(fresh, {VIPS[3]: ()}, never_empty={VIPS[3]}), MapModel(), fresh)
    assert fresh.slots[VIPS[3]][0].count == 0, "it never had any"


def test_backend_ids_are_not_reused_soon() -> None:
    maps, programmed = MapModel(), Programmed()
    for number in range(300):
        apply(plan(programmed, {VIPS[0]: (BACKENDS[number % 2],)}), maps, programmed)
        programmed = adopt(maps) if number % 7 == 3 else programmed
    assert len(maps.ever) == len(set(maps.ever)) == 300


def test_service_ids_are_not_reused_soon() -> None:
    maps, programmed = MapModel(), Programmed()
    stays, comes_and_goes, seen = VIPS[0], VIPS[1], set()
    for number in range(50):
        apply(plan(programmed, {stays: (), comes_and_goes: ()}), maps, programmed)
        seen.add(maps.services[ServiceKey(*comes_and_goes, 0)].service_id)
        apply(plan(programmed, {stays: tuple(BACKENDS[: 1 + number % 2])}), maps, programmed)
    assert len(seen) == 50


def test_ids_come_after_those_that_conntrack_still_holds_and_wrap() -> None:
    programmed = Programmed.adopt({}, {}, past_ids=[3, 41])
    assert plan(programmed, {VIPS[0]: (BACKENDS[0],)})[0] == PutBackend(42, BackendEntry(*BACKENDS[0]))
    programmed = Programmed.adopt({}, {1: BackendEntry(*BACKENDS[1])}, past_ids=[MAX_ID])
    assert plan(programmed, {VIPS[0]: (BACKENDS[0], BACKENDS[1])})[0] == PutBackend(2, BackendEntry(*BACKENDS[0]))


def test_a_backend_shared_by_services_is_written_once_and_stays_while_used() -> None:
    maps, programmed = MapModel(), Programmed()
    carry_out(maps, programmed, {VIPS[0]: (BACKENDS[0],), VIPS[1]: (BACKENDS[0],)}, {})
    assert maps.ever == [1]
    carry_out(maps, programmed, {VIPS[1]: (BACKENDS[0],)}, {})
    assert plan(programmed, {})[-1] == DeleteBackend(1)


def test_one_changed_endpoint_costs_a_few_writes_and_a_stable_backend_keeps_its_slot() -> None:
    maps, programmed = MapModel(), Programmed()
    apply(plan(programmed, {VIPS[0]: tuple(BACKENDS[:5])}), maps, programmed)
    ops = plan(programmed, {VIPS[0]: (*BACKENDS[1:5], BACKENDS[5])})
    assert len(ops) == 3  # new backend, its slot, old backend gone
    ops = plan(programmed, {VIPS[0]: tuple(BACKENDS[1:5])})
    assert len(ops) == 4  # the last moves into the hole, count, surplus slot, old backend


def test_a_full_map_leaves_an_exact_memory_and_the_next_plan_goes_on() -> None:
    maps, programmed = MapModel(room=5), Programmed()
    wanted: Wanted = {VIPS[0]: tuple(BACKENDS[:3]), VIPS[1]: tuple(BACKENDS[:3])}
    with pytest.raises(OSError, match="full"):
        apply(plan(programmed, wanted), maps, programmed)
    maps.room = 100
    carry_out(maps, programmed, wanted, {VIPS[0]: tuple(BACKENDS[:3])})


def test_planning_changes_nothing() -> None:
    programmed = Programmed()
    assert plan(programmed, {VIPS[0]: (BACKENDS[0],)}) == plan(programmed, {VIPS[0]: (BACKENDS[0],)})


@pytest.mark.parametrize("bad", [("10.96.0.1", 80, "SCTP"), ("10.96.0.1", 80, "tcp")])
def test_other_protocols_are_refused(bad: Frontend) -> None:
    with pytest.raises(ValueError, match="TCP"):
        plan(Programmed(), {bad: ()})


def test_more_backends_than_slots_are_refused() -> None:
    many = tuple((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 80) for n in range(1 << 16))
    with pytest.raises(ValueError, match="65535"):
        plan(Programmed(), {VIPS[0]: many})


def test_one_changed_endpoint_among_many_services_is_planned_at_once() -> None:
    """2,000 services x 10 here (10,000 in perf/service_sync.py); the time must not depend on it."""

    class Nowhere:
        def put_service(self, key: ServiceKey, entry: ServiceEntry) -> None: ...

        def delete_service(self, key: ServiceKey) -> None: ...

        def put_backend(self, backend_id: int, entry: BackendEntry) -> None: ...

        def delete_backend(self, backend_id: int) -> None: ...

    def address(number: int) -> str:
        return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"

    wanted: Mapping[Frontend, tuple[Backend, ...]] = {
        (address(s), 80, "TCP"): tuple((address(s * 10 + n), 8080) for n in range(10)) for s in range(2_000)
    }
    programmed = Programmed()
    apply(plan(programmed, wanted), Nowhere(), programmed)
    frontend = (address(1234), 80, "TCP")
    best = 1.0
    for round_number in range(5):
        changed = (*wanted[frontend][1:], ("192.0.2.1", 1000 + round_number))
        start = time.perf_counter()
        ops = plan_changes(programmed, {frontend: changed})
        best = min(best, time.perf_counter() - start)
        apply(ops, Nowhere(), programmed)
    assert best < 0.002
    assert len(ops) == 3
