"""Load-balancer maps that an earlier agent left behind, sound or damaged, become what is wanted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import MAX_ID, Frontend
from datapath.services import apply, plan_changes
from tests.unit.service_maps import BACKENDS, VIPS, WANTED, MapModel, Wanted, adopt, carry_out

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


def test_a_new_backend_never_gets_an_id_that_a_dangling_slot_names() -> None:
    maps = MapModel()
    maps.services = dict([master(VIPS[0], 1, 1), slot(VIPS[0], 1, 1), master(VIPS[1], 2, 0)])
    programmed = adopt(maps)
    apply(plan_changes(programmed, {VIPS[1]: (BACKENDS[0],)}), maps, programmed)
    assert maps.ever == [2], "1 would have made the first service call the second one's backend"
