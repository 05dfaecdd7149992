"""A model of the service maps that is as strict as the kernel, and plans carried out on it write by write."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence

from hypothesis import strategies as st

from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_ENDPOINTS,
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_NODE_PORT,
    BACKEND_DRAINING,
)
from datapath.bpfcall import BatchError
from datapath.entries import AddressEntry, BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import Backend, Frontend, NoteClusterIp, Offer, Op, Programmed
from datapath.services import apply, plan
from datapath.table import Number

Wanted = dict[Frontend, Offer]

VIPS: list[Frontend] = [
    ("10.96.0.1", 80, "TCP"),
    ("10.96.0.1", 80, "UDP"),
    ("10.96.0.2", 53, "UDP"),
    ("fd00:96::3", 1, "SCTP"),
    ("fd00:96::3", 80, "TCP"),
    ("0.0.0.0", 30080, "TCP"),
    ("::", 30080, "TCP"),
]
BACKENDS: list[Backend] = [(f"10.0.0.{number}", 8080) for number in range(1, 6)] + [("fd00::6", 8080)]
NODES = ["192.0.2.1", "2001:db8::1", "10.96.0.2"]
SOME = st.lists(st.sampled_from(BACKENDS), max_size=6).map(tuple)
OFFERS = st.tuples(SOME, SOME, st.sampled_from([0, 60]), st.booleans(), st.just("default/one"))
WANTED = st.dictionaries(st.sampled_from(VIPS), OFFERS)
NODE_SETS = st.frozensets(st.sampled_from(NODES))


def offer(
    *backends: Backend, draining: tuple[Backend, ...] = (), affinity_s: int = 0, cluster_ip: bool = True
) -> Offer:
    """What a frontend offers."""
    return backends, draining, affinity_s, cluster_ip, "default/one"


class MapModel:
    """The maps as dicts, `services` with `room` for so many. Deleting what is not there fails, unlike in the kernel.

    `check` runs after every single write, `writes` counts them; before write number `fails_at` the maps refuse.
    """

    def __init__(self, room: int = 10**9) -> None:
        self.services = ServiceRows(self)
        self.backends = BackendRows(self)
        self.flow_counters = CounterRows(self)
        self.marks: dict[str, int] = {}
        self.ever: list[int] = []
        self.room = room
        self.writes = 0
        self.fails_at = -1
        self.check: Callable[[], None] = lambda: None

    def admit(self, done: int) -> None:
        """Before a write: BatchError when it is refused."""
        if self.writes == self.fails_at:
            raise BatchError(errno.ENOMEM, "refused", done)

    def wrote(self) -> None:
        self.writes += 1
        self.check()

    def mark_address(self, address: str, mask: int, flags: int) -> None:
        self.admit(0)
        before = self.marks.get(address, 0)
        self.marks[address] = before & ~mask | flags & mask
        if not self.marks[address]:
            del self.marks[address]
        self.wrote()

    def reached(self, frontend: Frontend) -> tuple[Backend, ...] | None:
        """The backends a packet may reach, as the program looks them up; None without a service. Asserts soundness."""
        ids = self.chosen(frontend)
        return ids if ids is None else tuple((self.backends[i].address, self.backends[i].port) for i in ids)  # type: ignore[return-value]

    def chosen(self, frontend: Frontend) -> tuple[int, ...] | None:
        """The ids in the slots that count."""
        master = self.services.get(ServiceKey(*frontend, 0))
        if master is None:
            return None
        return tuple(self.services[ServiceKey(*frontend, slot)].backend_id for slot in range(1, master.count + 1))

    def belonging(self, frontend: Frontend) -> dict[Backend, int]:
        """The ids of all backends of a frontend, also of those that drain."""
        master = self.services.get(ServiceKey(*frontend, 0))
        if master is None:
            return {}
        own = {number: entry for number, entry in self.backends.items() if entry.service_id == master.service_id}
        return {(entry.address, entry.port): number for number, entry in own.items()}

    def assert_is(self, wanted: Wanted, nodes: Iterable[str], known: dict[Frontend, set[Backend]]) -> None:
        """Exactly `wanted` is programmed, nothing is left over, and every service has an id of its own.

        `known`: the backends that were there before; only those can drain.
        """
        owned: set[int] = set()
        for frontend, (backends, draining, affinity_s, _, _) in wanted.items():
            reached = self.reached(frontend)
            assert reached is not None and sorted(reached) == sorted(set(backends)), frontend
            assert self.services[ServiceKey(*frontend, 0)].affinity_s == affinity_s
            own = self.belonging(frontend)
            drained = set(draining).intersection(known.get(frontend, ())).difference(backends)
            assert own.keys() == drained.union(backends)
            assert {one for one, number in own.items() if self.backends[number].flags} == drained
            assert owned.isdisjoint(own.values())
            owned |= set(own.values())
        assert owned == set(self.backends)
        slots = {
            ServiceKey(*frontend, slot) for frontend in wanted for slot in range(len(set(wanted[frontend][0])) + 1)
        }
        assert set(self.services) == slots
        ids = [entry.service_id for key, entry in self.services.items() if key.slot == 0]
        assert len(set(ids)) == len(ids)
        assert 0 not in ids and 0 not in self.backends
        assert self.marks == expected_marks(wanted, nodes)
        assert set(self.flow_counters) <= set(ids)


class ServiceRows(dict[ServiceKey, ServiceEntry]):
    def __init__(self, model: MapModel) -> None:
        self._model = model

    def put_many(self, entries: Sequence[tuple[ServiceKey, ServiceEntry]]) -> None:
        for done, (key, entry) in enumerate(entries):
            self._model.admit(done)
            if key not in self and len(self) >= self._model.room:
                raise BatchError(errno.E2BIG, "full", done)
            self[key] = entry
            if not key.slot:
                self._model.flow_counters[entry.service_id] = 1
            self._model.wrote()

    def delete_many(self, keys: Iterable[ServiceKey]) -> None:
        for done, key in enumerate(keys):
            self._model.admit(done)
            del self[key]
            self._model.wrote()


class BackendRows(dict[int, BackendEntry]):
    def __init__(self, model: MapModel) -> None:
        self._model = model

    def put_many(self, entries: Sequence[tuple[Number, BackendEntry]]) -> None:
        for done, (key, entry) in enumerate(entries):
            self._model.admit(done)
            old = self.get(key.number)
            if old is None:
                self._model.ever.append(key.number)
            else:
                same = (old.address, old.port, old.service_id) == (entry.address, entry.port, entry.service_id)
                assert same, "a backend in use was overwritten"
            self[key.number] = entry
            self._model.wrote()

    def delete_many(self, keys: Iterable[Number]) -> None:
        for done, key in enumerate(keys):
            self._model.admit(done)
            del self[key.number]
            self._model.wrote()


class CounterRows(dict[int, int]):
    def __init__(self, model: MapModel) -> None:
        self._model = model

    def delete_many(self, keys: Iterable[Number]) -> None:
        for key in keys:  # the kernel's way with what is not there
            self.pop(key.number, None)


def expected_marks(wanted: Wanted, nodes: Iterable[str]) -> dict[str, int]:
    """What the flags must be."""
    marks = dict.fromkeys(nodes, ADDRESS_NODE_PORT)
    for (address, _, _), (backends, _, _, cluster_ip, _) in wanted.items():
        if address not in ("0.0.0.0", "::"):
            endpoints = ADDRESS_ENDPOINTS if backends else 0
            asked = ADDRESS_FRONTEND | (ADDRESS_CLUSTER_IP | endpoints if cluster_ip else 0)
            marks[address] = marks.get(address, 0) | asked
    return marks


def adopt(maps: MapModel, past_ids: Iterable[int] = ()) -> Programmed:
    addresses = {address: AddressEntry(flags | ADDRESS_NODE) for address, flags in maps.marks.items()}
    return Programmed.adopt(dict(maps.services), dict(maps.backends), addresses, past_ids)


def carry_out(
    maps: MapModel, programmed: Programmed, wanted: Wanted, held: Wanted, nodes: Iterable[str] = frozenset()
) -> None:
    """Plan and apply; `Watch` looks at every write. `held` is what the maps are known to offer soundly before."""
    watch = Watch(maps, wanted, held)
    maps.check = watch.check
    apply(plan(programmed, wanted, frozenset(nodes)), maps, programmed)
    maps.check = lambda: None
    maps.assert_is(wanted, nodes, watch.known)
    assert plan(programmed, wanted, frozenset(nodes)) == []
    again = plan(adopt(maps), wanted, frozenset(nodes))
    assert not writes(again), "what is kept in memory is not what the maps hold"


def writes(ops: Iterable[Op]) -> list[Op]:
    """Those that change a map."""
    return [op for op in ops if not isinstance(op, NoteClusterIp)]


class Watch:
    """What has to hold after each single write on the way from `held` to `wanted`."""

    def __init__(self, maps: MapModel, wanted: Wanted, held: Wanted) -> None:
        self._maps, self._wanted, self._held = maps, wanted, held
        self.known = {frontend: set(maps.belonging(frontend)) for frontend in wanted}
        self._ids = {frontend: maps.belonging(frontend) for frontend in held}
        self._marked = dict(maps.marks)
        there = {key.address for key in maps.services if key.slot == 0} | maps.marks.keys()
        self._new = [frontend for frontend in wanted if frontend[0] not in there]

    def check(self) -> None:
        for frontend in self._wanted.keys() & self._held.keys():
            self._stays(frontend, self._wanted[frontend], self._held[frontend])
        for frontend in self._held:
            there = ServiceKey(*frontend, 0) in self._maps.services
            if there and self._marked.get(frontend[0], 0) & ADDRESS_FRONTEND:
                assert self._maps.marks.get(frontend[0], 0) & ADDRESS_FRONTEND, f"{frontend} went to the gateway"
        for frontend in self._new:
            if self._maps.marks.get(frontend[0], 0) & ADDRESS_FRONTEND:
                assert ServiceKey(*frontend, 0) in self._maps.services, f"{frontend} was refused before it was there"

    def _stays(self, frontend: Frontend, new: Offer, old: Offer) -> None:
        chosen = self._maps.chosen(frontend)
        reached = self._maps.reached(frontend)
        assert chosen is not None and reached is not None, f"{frontend} was not there"
        assert set(reached) <= {*new[0], *old[0]}
        if new[0] and old[0]:
            assert reached, f"{frontend} was without backends"
        assert not any(self._maps.backends[number].flags & BACKEND_DRAINING for number in chosen)
        for backend in {*new[0], *new[1]} & self._ids[frontend].keys():
            number = self._ids[frontend][backend]
            assert (self._maps.backends[number].address, self._maps.backends[number].port) == backend
        both = new[3] and old[3] and frontend[0] not in ("0.0.0.0", "::")
        least = (ADDRESS_CLUSTER_IP | (ADDRESS_ENDPOINTS if new[0] and old[0] else 0)) if both else 0
        assert self._maps.marks.get(frontend[0], 0) & least == least, f"{frontend}: its address lost a flag"
