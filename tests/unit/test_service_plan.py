"""The plan of load-balancer writes, carried out one by one on a model of the maps that is as strict as the kernel."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import MAX_ID, Backend, DeleteBackend, Frontend, Programmed, PutBackend
from datapath.services import apply, plan, plan_changes

Wanted = dict[Frontend, tuple[Backend, ...]]

VIPS: list[Frontend] = [
    ("10.96.0.1", 80, "TCP"),
    ("10.96.0.1", 80, "UDP"),
    ("10.96.0.2", 53, "UDP"),
    ("10.96.0.3", 1, "TCP"),
]
BACKENDS: list[Backend] = [(f"10.0.0.{number}", 8080) for number in range(1, 7)]


class MapModel:
    """`services4` and `backends4` as dicts, the first with `room` for so many. Deleting what is not there fails."""

    def __init__(self, room: int = 10**9) -> None:
        self.services: dict[ServiceKey, ServiceEntry] = {}
        self.backends: dict[int, BackendEntry] = {}
        self.ever: list[int] = []
        self.room = room
        self.check = lambda: None

    def put_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        if key not in self.services and len(self.services) >= self.room:
            raise OSError(errno.E2BIG, "full")
        self.services[key] = entry
        self.check()

    def delete_service(self, key: ServiceKey) -> None:
        del self.services[key]
        self.check()

    def put_backend(self, backend_id: int, entry: BackendEntry) -> None:
        assert backend_id not in self.backends, "a backend in use was overwritten"
        self.backends[backend_id] = entry
        self.ever.append(backend_id)
        self.check()

    def delete_backend(self, backend_id: int) -> None:
        del self.backends[backend_id]
        self.check()

    def reached(self, frontend: Frontend) -> tuple[Backend, ...] | None:
        """The backends a packet may reach, as the program looks them up; None without a service. Asserts soundness."""
        master = self.services.get(ServiceKey(*frontend, 0))
        if master is None:
            return None
        found = []
        for slot in range(1, master.count + 1):
            entry = self.services[ServiceKey(*frontend, slot)]
            backend = self.backends[entry.backend_id]
            found.append((backend.address, backend.port))
        return tuple(found)

    def assert_is(self, wanted: Wanted) -> None:
        """Exactly `wanted` is programmed, nothing is left over, and every service has an id of its own."""
        assert {frontend: tuple(sorted(self.reached(frontend) or ())) for frontend in wanted} == {
            frontend: tuple(sorted(set(backends))) for frontend, backends in wanted.items()
        }
        slots = {ServiceKey(*frontend, slot) for frontend in wanted for slot in range(len(set(wanted[frontend])) + 1)}
        assert set(self.services) == slots
        assert len(self.backends) == len({backend for backends in wanted.values() for backend in backends})
        ids = [entry.service_id for key, entry in self.services.items() if key.slot == 0]
        assert len(set(ids)) == len(ids)
        assert 0 not in ids and 0 not in self.backends


def adopt(maps: MapModel) -> Programmed:
    return Programmed.adopt(maps.services, maps.backends)


def carry_out(maps: MapModel, programmed: Programmed, wanted: Wanted, held: Wanted) -> None:
    """Plan and apply; after every write a service that had and will have backends reaches some, old or new ones."""

    def check() -> None:
        for frontend, backends in wanted.items():
            if backends and held.get(frontend):
                reached = maps.reached(frontend)
                assert reached, f"{frontend} was without backends"
                assert set(reached) <= set(held[frontend]) | set(backends)

    maps.check = check
    apply(plan(programmed, wanted), maps, programmed)
    maps.check = lambda: None
    maps.assert_is(wanted)
    assert plan(programmed, wanted) == []
    assert plan(adopt(maps), wanted) == [], "what is kept in memory is not what the maps hold"


WANTED = st.dictionaries(st.sampled_from(VIPS), st.lists(st.sampled_from(BACKENDS), max_size=6).map(tuple))


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


KEYS = st.builds(
    ServiceKey,
    *(st.sampled_from(values) for values in (["10.96.0.1", "10.96.0.2", "1.2.3.4"], [80, 53])),
    st.sampled_from(["TCP", "UDP", "132"]),
    st.integers(0, 5),
)
ENTRIES = st.builds(
    ServiceEntry, *(st.sampled_from(values) for values in ([0, 1, 7], [0, 1, 2, 3, 9], [0, 1, 3, 500], [0, 1], [0, 60]))
)
GARBAGE = st.tuples(
    st.dictionaries(KEYS, ENTRIES, max_size=25),
    st.dictionaries(
        st.sampled_from([0, 1, 2, 3, MAX_ID]),
        st.builds(BackendEntry, st.sampled_from(["10.0.0.1", "10.0.0.2"]), st.just(8080)),
    ),
)


@given(GARBAGE, WANTED)
@settings(max_examples=150, deadline=None)
def test_any_adopted_state_is_repaired(
    garbage: tuple[dict[ServiceKey, ServiceEntry], dict[int, BackendEntry]], wanted: Wanted
) -> None:
    maps = MapModel()
    maps.services, maps.backends = dict(garbage[0]), dict(garbage[1])
    sound = {}
    for frontend in wanted:
        try:
            sound[frontend] = maps.reached(frontend) or ()
        except KeyError:
            continue
    carry_out(maps, adopt(maps), wanted, sound)


def master(frontend: Frontend, service_id: int, count: int) -> tuple[ServiceKey, ServiceEntry]:
    return ServiceKey(*frontend, 0), ServiceEntry(service_id=service_id, count=count)


def slot(frontend: Frontend, number: int, backend_id: int) -> tuple[ServiceKey, ServiceEntry]:
    return ServiceKey(*frontend, number), ServiceEntry(backend_id=backend_id)


def backends(*ids: int) -> dict[int, BackendEntry]:
    return {number: BackendEntry(f"10.0.0.{number}", 8080) for number in ids}


@pytest.mark.parametrize(
    ("services", "known"),
    [
        pytest.param(
            [master(VIPS[0], 1, 2), slot(VIPS[0], 1, 1), slot(VIPS[0], 2, 77)], backends(1), id="dangling slot"
        ),
        pytest.param([master(VIPS[0], 1, 9), slot(VIPS[0], 1, 1)], backends(1), id="count beyond the slots"),
        pytest.param([slot(VIPS[0], 1, 1), slot(VIPS[0], 5, 1)], backends(1), id="slots without a service"),
        pytest.param(
            [master(VIPS[0], 1, 2), slot(VIPS[0], 1, 1), slot(VIPS[0], 2, 1)], backends(1), id="one backend twice"
        ),
        pytest.param(
            [master(VIPS[0], 0, 1), slot(VIPS[0], 1, 0)], {0: BackendEntry("10.0.0.1", 8080)}, id="ids of zero"
        ),
        pytest.param(
            [master(VIPS[0], 1, 1), slot(VIPS[0], 1, 5)],
            {4: BackendEntry("10.0.0.1", 8080), 5: BackendEntry("10.0.0.1", 8080)},
            id="one backend under two ids",
        ),
        pytest.param(
            [master(VIPS[0], 1, 0), master(("9.9.9.9", 9, "132"), 2, 0)], backends(1, 3), id="things nobody wants"
        ),
        pytest.param([(ServiceKey(*VIPS[0], 0), ServiceEntry(1, 3, 0, 9, 60))], {}, id="unknown flags"),
    ],
)
def test_named_damage_is_repaired(services: list[Any], known: dict[int, BackendEntry]) -> None:
    maps = MapModel()
    maps.services, maps.backends = dict(services), dict(known)
    carry_out(maps, adopt(maps), {VIPS[0]: (BACKENDS[0], BACKENDS[1])}, {})


def test_two_services_with_one_id_get_fresh_ones() -> None:
    maps = MapModel()
    maps.services = dict([master(VIPS[0], 5, 0), master(VIPS[1], 5, 0), master(VIPS[2], 6, 0)])
    programmed = adopt(maps)
    carry_out(maps, programmed, {VIPS[0]: (), VIPS[1]: (), VIPS[2]: ()}, {})
    ids = [maps.services[ServiceKey(*frontend, 0)].service_id for frontend in VIPS[:3]]
    assert ids == [7, 8, 6]


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


def test_a_new_backend_never_gets_an_id_that_a_dangling_slot_names() -> None:
    maps = MapModel()
    maps.services = dict([master(VIPS[0], 1, 1), slot(VIPS[0], 1, 1), master(VIPS[1], 2, 0)])
    programmed = adopt(maps)
    apply(plan_changes(programmed, {VIPS[1]: (BACKENDS[0],)}), maps, programmed)
    assert maps.ever == [2], "1 would have made the first service call the second one's backend"


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
