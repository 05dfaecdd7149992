"""A model of the service maps that is as strict as the kernel, and plans carried out on it write by write."""

from __future__ import annotations

import errno

from hypothesis import strategies as st

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import Backend, Frontend, Programmed
from datapath.services import apply, plan

Wanted = dict[Frontend, tuple[Backend, ...]]

VIPS: list[Frontend] = [
    ("10.96.0.1", 80, "TCP"),
    ("10.96.0.1", 80, "UDP"),
    ("10.96.0.2", 53, "UDP"),
    ("10.96.0.3", 1, "TCP"),
]
BACKENDS: list[Backend] = [(f"10.0.0.{number}", 8080) for number in range(1, 7)]
WANTED = st.dictionaries(st.sampled_from(VIPS), st.lists(st.sampled_from(BACKENDS), max_size=6).map(tuple))


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
