"""Load-balancer maps that an earlier agent left behind, sound or damaged, become what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import MAX_ID, Frontend
from datapath.services import apply, plan, plan_changes
from tests.unit.service_maps import BACKENDS, NODE_SETS, VIPS, WANTED, MapModel, Wanted, adopt, carry_out, offer

KEYS = st.builds(
    ServiceKey,
    *(st.sampled_from(values) for values in (["10.96.0.1", "10.96.0.2", "fd00:96::3", "0.0.0.0"], [80, 53])),
    st.sampled_from(["TCP", "UDP", "99"]),
    st.integers(0, 5),
)
ENTRIES = st.builds(
    ServiceEntry, *(st.sampled_from(values) for values in ([0, 1, 7], [0, 1, 2, 3, 9], [0, 1, 3, 500], [0, 1], [0, 60]))
)
GARBAGE_BACKENDS = st.builds(
    BackendEntry,
    st.sampled_from(["10.0.0.1", "10.0.0.2"]),
    st.just(8080),
    st.sampled_from([0, 1, 7, 8]),
    st.sampled_from([0, 1, 0x8000]),
)
GARBAGE = st.tuples(
    st.dictionaries(KEYS, ENTRIES, max_size=25),
    st.dictionaries(st.sampled_from([0, 1, 2, 3, MAX_ID]), GARBAGE_BACKENDS),
    st.dictionaries(
        st.sampled_from(["10.96.0.1", "192.0.2.1", "9.9.9.9", "0.0.0.0"]), st.sampled_from([4, 12, 32, 64])
    ),
)
Garbage = tuple[dict[ServiceKey, ServiceEntry], dict[int, BackendEntry], dict[str, int]]


@given(GARBAGE, WANTED, NODE_SETS)
@settings(max_examples=150, deadline=None)
def test_any_adopted_state_is_repaired(garbage: Garbage, wanted: Wanted, nodes: frozenset[str]) -> None:
    """And a caller who reached some backend before reaches one all the time."""
    maps = damaged(*garbage)
    reached = {}
    for frontend in wanted:
        try:
            reached[frontend] = maps.reached(frontend)
        except KeyError:
            continue

    def check() -> None:
        for frontend, before in reached.items():
            now = maps.reached(frontend)
            assert not before or not wanted[frontend][0] or now, f"{frontend} was without backends"

    maps.check = check
    programmed = adopt(maps)
    apply(plan(programmed, wanted, nodes), maps, programmed)
    carry_out(maps, programmed, wanted, wanted, nodes)


def damaged(
    services: dict[ServiceKey, ServiceEntry], backends: dict[int, BackendEntry], marks: dict[str, int] | None = None
) -> MapModel:
    """Maps that hold this."""
    maps = MapModel()
    maps.services.update(services)
    maps.backends.update(backends)
    maps.marks.update(marks or {})
    maps.flow_counters.update({entry.service_id: 1 for key, entry in services.items() if key.slot == 0})
    return maps


def master(frontend: Frontend, service_id: int, count: int) -> tuple[ServiceKey, ServiceEntry]:
    return ServiceKey(*frontend, 0), ServiceEntry(service_id=service_id, count=count)


def slot(frontend: Frontend, number: int, backend_id: int) -> tuple[ServiceKey, ServiceEntry]:
    return ServiceKey(*frontend, number), ServiceEntry(backend_id=backend_id)


def backends(*ids: int) -> dict[int, BackendEntry]:
    return {number: BackendEntry(f"10.0.0.{number}", 8080, 1) for number in ids}


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
            [master(VIPS[0], 0, 1), slot(VIPS[0], 1, 0)], {0: BackendEntry("10.0.0.1", 8080, 0)}, id="ids of zero"
        ),
        pytest.param(
            [master(VIPS[0], 1, 1), slot(VIPS[0], 1, 5)],
            {4: BackendEntry("10.0.0.1", 8080, 1), 5: BackendEntry("10.0.0.1", 8080, 1)},
            id="one backend under two ids",
        ),
        pytest.param(
            [master(VIPS[0], 1, 0), master(("9.9.9.9", 9, "132"), 2, 0)], backends(1, 3), id="things nobody wants"
        ),
        pytest.param([(ServiceKey(*VIPS[0], 0), ServiceEntry(1, 3, 0, 9, 60))], {}, id="unknown flags"),
        pytest.param(
            [master(VIPS[0], 1, 1), slot(VIPS[0], 1, 1)],
            {1: BackendEntry("10.0.0.1", 8080, 1, 0x8000)},
            id="a backend's unknown flags",
        ),
        pytest.param(
            [master(VIPS[0], 1, 1), slot(VIPS[0], 1, 1)], {1: BackendEntry("10.0.0.1", 8080, 9)}, id="nobody's backend"
        ),
    ],
)
def test_named_damage_is_repaired(services: list[Any], known: dict[int, BackendEntry]) -> None:
    maps = damaged(dict(services), known, {"9.9.9.9": 4, VIPS[0][0]: 0x40})
    carry_out(maps, adopt(maps), {VIPS[0]: offer(BACKENDS[0], BACKENDS[1])}, {})


def test_two_services_with_one_id_get_fresh_ones() -> None:
    maps = damaged(dict([master(VIPS[0], 5, 0), master(VIPS[1], 5, 0), master(VIPS[2], 6, 0)]), {})
    programmed = adopt(maps)
    carry_out(maps, programmed, {VIPS[0]: offer(), VIPS[1]: offer(), VIPS[2]: offer()}, {})
    ids = [maps.services[ServiceKey(*frontend, 0)].service_id for frontend in VIPS[:3]]
    assert ids == [7, 8, 6]


def test_a_new_backend_never_gets_an_id_that_a_dangling_slot_names() -> None:
    maps = damaged(dict([master(VIPS[0], 1, 1), slot(VIPS[0], 1, 1), master(VIPS[1], 2, 0)]), {})
    programmed = adopt(maps)
    apply(plan_changes(programmed, {VIPS[1]: offer(BACKENDS[0])}), maps, programmed)
    assert maps.ever == [2], "1 would have made the first service call the second one's backend"


def test_sound_maps_are_taken_over_as_they_are_with_what_drains() -> None:
    maps = MapModel()
    wanted: Wanted = {VIPS[0]: offer(BACKENDS[0], draining=(BACKENDS[1],)), VIPS[3]: offer(BACKENDS[0])}
    first = adopt(maps)
    apply(plan(first, {**wanted, VIPS[0]: offer(*BACKENDS[:2])}), maps, first)
    apply(plan(first, wanted), maps, first)
    second = adopt(maps)
    assert plan(second, wanted) == []
    assert second.offer_of(VIPS[0]) == ((BACKENDS[0],), (BACKENDS[1],), 0, True, "")
    kept = {frontend: second.offer_of(frontend) for frontend in second.slots}
    assert plan(second, kept) == [], "what a restarted agent keeps for want of better is what was there"
