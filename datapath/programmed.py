"""What the load balancer's maps hold, indexed, and the operations that change them.

`Programmed` mirrors `services`, `backends` and the Services' flags in `addresses`, entry by entry. It takes pinned maps
over as they are and judges nothing; `datapath.service_plan` plans the repairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_NODE, ADDRESS_NODE_PORT, ADDRESS_POD, BACKEND_DRAINING
from datapath.entries import AddressEntry, BackendEntry, ServiceEntry, ServiceKey

Frontend = tuple[str, int, str]
"""(address, port, "TCP", "UDP" or "SCTP"); a NodePort's address is "0.0.0.0" or "::"."""

Backend = tuple[str, int]
"""(address, port)."""

Offer = tuple[tuple[Backend, ...], tuple[Backend, ...], int, bool, str]
"""(backends, draining, affinity in seconds, whether the address is only a Service's, "ns/name")."""

MAX_ID: Final = 2**32 - 1
"""Ids of services and backends go from 1 to this one, then round."""

SERVICE_MARKS: Final = 0xFFFFFFFF & ~(ADDRESS_POD | ADDRESS_NODE)
"""The flags of `addresses` that are written here; those of pods and of the node have other writers."""


@dataclass(frozen=True, slots=True)
class PutBackend:
    backend_id: int
    entry: BackendEntry
    frontend: Frontend


@dataclass(frozen=True, slots=True)
class PutService:
    key: ServiceKey
    entry: ServiceEntry


@dataclass(frozen=True, slots=True)
class DeleteService:
    key: ServiceKey


@dataclass(frozen=True, slots=True)
class DeleteBackend:
    """`frontend` None: nobody's."""

    backend_id: int
    frontend: Frontend | None


@dataclass(frozen=True, slots=True)
class MarkAddress:
    """`flags` are all of SERVICE_MARKS that the address shall have."""

    address: str
    flags: int


@dataclass(frozen=True, slots=True)
class NoteClusterIp:
    """Writes nothing: a frontend's part in its address's ADDRESS_CLUSTER_IP, which the maps do not hold."""

    frontend: Frontend
    cluster_ip: bool


@dataclass(frozen=True, slots=True)
class DeleteCounters:
    service_id: int


Op = PutBackend | PutService | DeleteService | DeleteBackend | MarkAddress | NoteClusterIp | DeleteCounters


@dataclass(frozen=True, slots=True)
class GoneBackend:
    """A backend that takes no new flows any more. `state` is "removed" or "draining"; `protocol` "": not known."""

    backend_id: int
    address: str
    port: int
    protocol: str
    state: str


class Programmed:
    """What the maps hold now. Not thread-safe: plan and apply one after the other."""

    def __init__(self) -> None:
        self.slots: dict[Frontend, dict[int, ServiceEntry]] = {}  # slot 0 is the service itself
        self.backends: dict[int, BackendEntry] = {}
        self.marks: dict[str, int] = {}  # address -> those of SERVICE_MARKS it has
        self.node_addresses: set[str] = set()  # those marked ADDRESS_NODE_PORT
        self.frontends_at: dict[str, set[Frontend]] = {}
        self.cluster_ips: set[Frontend] = set()
        self.ids_of: dict[int, set[int]] = {}  # service id -> backends that belong to it
        self.promised: dict[Frontend, int] = {}  # service ids whose backends came, whose slot 0 did not yet
        self.disowned: set[int] = set()  # service ids that nobody has any more and whose counters are still there
        self.past: frozenset[int] = frozenset()
        self.crossed: frozenset[int] = frozenset()  # backend ids that a slot of somebody else may still name
        self.last_backend_id = 0
        self.last_service_id = 0
        self._owners: Counter[int] = Counter()  # service id -> frontends that have it
        self._ownerless: set[int] = set()  # service ids in `ids_of` that no frontend has
        self._gone: list[GoneBackend] = []

    @classmethod
    def adopt(
        cls,
        services: Mapping[ServiceKey, ServiceEntry],
        backends: Mapping[int, BackendEntry],
        addresses: Mapping[str, AddressEntry],
        past_ids: Iterable[int] = (),
    ) -> Programmed:
        """Take over the maps' content as it is, sound or not.

        `past_ids`: backend and service ids that something outside the maps still holds (conntrack); they are not given.
        """
        programmed = cls()
        for backend_id, backend in backends.items():
            programmed._put_backend(backend_id, backend)
        for key, entry in services.items():
            programmed._put_service(key, entry)
        for address, known in addresses.items():
            programmed._mark(address, known.flags & SERVICE_MARKS)
        for address, frontends in programmed.frontends_at.items():
            if programmed.marks.get(address, 0) & ADDRESS_CLUSTER_IP:
                programmed.cluster_ips |= frontends
        named = list(programmed._named())
        programmed.crossed = frozenset(backend_id for backend_id, own in named if not own)
        programmed.past = frozenset(past_ids).union(number for number, _ in named if number not in backends)
        past = max(programmed.past, default=0)
        programmed.last_backend_id = max(past, max(backends, default=0))
        programmed.last_service_id = max(past, max((*programmed._owners, *programmed.ids_of), default=0))
        return programmed

    def record(self, op: Op) -> None:
        """Note an operation that the maps have taken."""
        if isinstance(op, PutService):
            self._put_service(op.key, op.entry)
        elif isinstance(op, PutBackend):
            self._record_backend(op)
        elif isinstance(op, DeleteService):
            self._delete_service(op.key)
        elif isinstance(op, DeleteBackend):
            self._record_removed(op)
        elif isinstance(op, MarkAddress):
            self._mark(op.address, op.flags)
        elif isinstance(op, NoteClusterIp):
            change = self.cluster_ips.add if op.cluster_ip else self.cluster_ips.discard
            change(op.frontend)
        else:
            self.disowned.discard(op.service_id)

    def take_gone(self) -> list[GoneBackend]:
        """The backends that went or began to drain since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def offer_of(self, frontend: Frontend) -> Offer:
        """What the maps say that a frontend offers: sound backends in the order of their slots; of no known Service."""
        master = self.slots.get(frontend, {}).get(0, ServiceEntry())
        known = (self.backends[number] for number in sorted(self.ids_of.get(master.service_id, ())))
        draining = tuple((one.address, one.port) for one in known if one.flags & BACKEND_DRAINING)
        return self.backends_of(frontend), draining, master.affinity_s, frontend in self.cluster_ips, ""

    def backends_of(self, frontend: Frontend) -> tuple[Backend, ...]:
        """The backends that packets to a frontend may reach now, in the order of their slots, each once."""
        slots = self.slots.get(frontend, {})
        master = slots.get(0, ServiceEntry())
        ids = (slots[slot].backend_id for slot in range(1, master.count + 1) if slot in slots)
        found = (self.backends[number] for number in ids if number and number in self.backends)
        return tuple(dict.fromkeys((entry.address, entry.port) for entry in found))

    def owners(self, service_id: int) -> int:
        """How many frontends have a service id."""
        return self._owners[service_id]

    def orphaned(self) -> list[int]:
        """Service ids that backends belong to, and no frontend has or is about to have."""
        return sorted(self._ownerless.difference(self.promised.values()))

    def _named(self) -> Iterator[tuple[int, bool]]:
        """The backend id of every slot, and whether that backend belongs to this very frontend."""
        nobodys = BackendEntry("", 0)
        for slots in self.slots.values():
            service_id = slots[0].service_id if 0 in slots else 0
            alone = self._owners[service_id] == 1
            for slot, entry in slots.items():
                if slot:
                    own = alone and self.backends.get(entry.backend_id, nobodys).service_id == service_id
                    yield entry.backend_id, own

    def _record_backend(self, op: PutBackend) -> None:
        old = self.backends.get(op.backend_id)
        self._put_backend(op.backend_id, op.entry)
        if old is None:
            self.last_backend_id = _later(self.last_backend_id, op.backend_id)
        if op.entry.service_id in self._ownerless:
            self.promised[op.frontend] = op.entry.service_id
            self.last_service_id = _later(self.last_service_id, op.entry.service_id)
        if op.entry.flags & BACKEND_DRAINING and not (old is not None and old.flags & BACKEND_DRAINING):
            one = GoneBackend(op.backend_id, op.entry.address, op.entry.port, op.frontend[2], "draining")
            self._gone.append(one)

    def _record_removed(self, op: DeleteBackend) -> None:
        old = self._forget_backend(op.backend_id)
        if op.frontend is not None and old.service_id not in self.ids_of:
            self.promised.pop(op.frontend, None)
        protocol = op.frontend[2] if op.frontend is not None else ""
        self._gone.append(GoneBackend(op.backend_id, old.address, old.port, protocol, "removed"))

    def _put_backend(self, backend_id: int, entry: BackendEntry) -> None:
        if backend_id in self.backends:
            self._forget_backend(backend_id)
        self.backends[backend_id] = entry
        ids = self.ids_of.get(entry.service_id)
        if ids is None:
            ids = self.ids_of[entry.service_id] = set()
            if entry.service_id not in self._owners:
                self._ownerless.add(entry.service_id)
        ids.add(backend_id)

    def _forget_backend(self, backend_id: int) -> BackendEntry:
        old = self.backends.pop(backend_id)
        ids = self.ids_of[old.service_id]
        ids.discard(backend_id)
        if not ids:
            del self.ids_of[old.service_id]
            self._ownerless.discard(old.service_id)
        return old

    def _put_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        frontend = key.address, key.port, key.protocol
        slots = self.slots.get(frontend)
        if slots is None:
            slots = self.slots[frontend] = {}
            self.frontends_at.setdefault(key.address, set()).add(frontend)
        old = slots.get(key.slot)
        slots[key.slot] = entry
        if key.slot:
            return
        self.promised.pop(frontend, None)
        if old is None or old.service_id != entry.service_id:
            self._disown(old)
            self._owners[entry.service_id] += 1
            self._ownerless.discard(entry.service_id)
            self.last_service_id = _later(self.last_service_id, entry.service_id)

    def _delete_service(self, key: ServiceKey) -> None:
        frontend = key.address, key.port, key.protocol
        slots = self.slots[frontend]
        old = slots.pop(key.slot)
        if not key.slot:
            self._disown(old)
        if not slots:
            del self.slots[frontend]
            self.cluster_ips.discard(frontend)
            self.frontends_at[key.address].discard(frontend)
            if not self.frontends_at[key.address]:
                del self.frontends_at[key.address]

    def _disown(self, master: ServiceEntry | None) -> None:
        if master is None:
            return
        self._owners[master.service_id] -= 1
        if not self._owners[master.service_id]:
            del self._owners[master.service_id]
            self.disowned.add(master.service_id)
            if master.service_id in self.ids_of:
                self._ownerless.add(master.service_id)

    def _mark(self, address: str, flags: int) -> None:
        if flags:
            self.marks[address] = flags
        else:
            self.marks.pop(address, None)
        change = self.node_addresses.add if flags & ADDRESS_NODE_PORT else self.node_addresses.discard
        change(address)


def _later(last: int, new: int) -> int:
    """The one of two ids that was given later; they go round."""
    return new if (new - last) % MAX_ID < MAX_ID // 2 else last
