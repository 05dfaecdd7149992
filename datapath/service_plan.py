"""One plan of map writes in the making: frontend by frontend, in phases that each may be written as a batch.

Several frontends share the phases (see `datapath.services` for their order); a chunk of them is closed before the next
one starts, so that a full map keeps only the last ones out. All frontends of a new address are in one chunk: it is
marked as a Service's when the last of them is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_ENDPOINTS, ADDRESS_FRONTEND, ADDRESS_NODE_PORT, BACKEND_DRAINING
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import (
    MAX_ID,
    Backend,
    DeleteBackend,
    DeleteCounters,
    DeleteService,
    Frontend,
    MarkAddress,
    NoteClusterIp,
    Offer,
    Op,
    Programmed,
    PutBackend,
    PutService,
)

ANY_NODE: Final = frozenset({"0.0.0.0", "::"})
"""The addresses of NodePorts: they stand for the nodes' and are not marked themselves."""


class Phases:
    """The operations of one chunk, in the order in which they are to be written."""

    def __init__(self) -> None:
        self.backends: list[Op] = []
        self.slots: list[Op] = []
        self.services: list[Op] = []
        self.notes: list[Op] = []
        self.marks: list[Op] = []
        self.draining: list[Op] = []
        self.surplus: list[Op] = []
        self.old_backends: list[Op] = []
        self.counters: list[Op] = []

    def in_order(self) -> list[Op]:
        """All of them."""
        before = [*self.backends, *self.slots, *self.services, *self.notes, *self.marks]
        return [*before, *self.draining, *self.surplus, *self.old_backends, *self.counters]


class Planner:
    """The operations so far and what they change in `programmed`, which stays as it is."""

    def __init__(self, programmed: Programmed, node_addresses: Iterable[str] | None) -> None:
        self.ops: list[Op] = []
        self._now = programmed
        self._nodes = programmed.node_addresses if node_addresses is None else frozenset(node_addresses)
        self._touched = set(programmed.node_addresses ^ self._nodes)
        self._awaited: Counter[str] = Counter()
        self._marked: dict[str, int] = {}
        self._chunk = Phases()
        self._late: list[Op] = []
        self._after: dict[str, dict[Frontend, int]] = {}  # by address: the flags that frontends ask for it
        self._left: Counter[int] = Counter()  # service id -> frontends that give it up
        self._backend_cursor = programmed.last_backend_id
        self._service_cursor = programmed.last_service_id

    def touch(self, addresses: Iterable[str]) -> None:
        """Look at the flags of these addresses as well."""
        self._touched.update(addresses)

    def await_(self, frontends: Iterable[Frontend]) -> None:
        """Say which frontends `put` will be called for."""
        self._awaited.update(frontend[0] for frontend in frontends)

    def remove(self, frontend: Frontend) -> None:
        """Delete all of a frontend, the service itself first, so that nobody looks for the others any more."""
        slots = self._now.slots.get(frontend, {})
        if 0 in slots:
            self._chunk.services.append(DeleteService(ServiceKey(*frontend, 0)))
            self._leave(frontend, slots[0].service_id)
        self._chunk.surplus += [DeleteService(ServiceKey(*frontend, slot)) for slot in sorted(slots) if slot]
        if frontend in self._now.promised:
            self._leave(frontend, self._now.promised[frontend])
        self._ask(frontend, 0)

    def remove_orphans(self) -> None:
        """Delete the backends and the counters that belong to nobody: some earlier plan was cut short."""
        self._chunk.counters += [DeleteCounters(service_id) for service_id in sorted(self._now.disowned)]
        for service_id in self._now.orphaned():
            self._drop_backends(sorted(self._now.ids_of[service_id]), None)

    def put(self, frontend: Frontend, offer: Offer) -> None:
        """Make a frontend offer just that; its backends are there once each."""
        backends, draining, affinity_s, cluster_ip, _ = offer
        slots = self._now.slots.get(frontend, {})
        service_id = self._service_id(frontend, slots.get(0))
        own = self._now.ids_of.get(service_id)
        ids = self._own_ids(own) if own else {}
        arranged = self._arrange(slots, backends, ids) if ids else backends
        backend_ids = [self._offer(frontend, service_id, backend, ids) for backend in arranged]
        for slot, backend_id in enumerate(backend_ids, start=1):
            entry = ServiceEntry(backend_id=backend_id)
            if slots.get(slot) != entry:
                self._chunk.slots.append(PutService(ServiceKey(*frontend, slot), entry))
        master = ServiceEntry(service_id=service_id, count=len(backend_ids), affinity_s=affinity_s)
        if slots.get(0) != master:
            self._chunk.services.append(PutService(ServiceKey(*frontend, 0), master))
        surplus = sorted(slot for slot in slots if slot > len(backend_ids))
        self._chunk.surplus += [DeleteService(ServiceKey(*frontend, slot)) for slot in surplus]
        if own:
            staying = [ids[backend] for backend in draining if backend in ids]
            drained = self._drain(frontend, service_id, staying, set(backend_ids))
            self._drop_backends(sorted(own.difference(backend_ids, drained)), frontend)
        self._mark(frontend, bool(backend_ids), cluster_ip)
        self._awaited[frontend[0]] -= 1

    def close_chunk(self) -> None:
        """Put the operations of the frontends so far into order; addresses that are awaited again lose no flag yet."""
        later = {address for address in self._touched if self._awaited[address]}
        for address in sorted(self._touched):
            before = self._marked.get(address, self._now.marks.get(address, 0))
            flags = before | self._asked_for(address) if address in later else self._flags(address)
            if flags != before:
                self._marked[address] = flags
                self._chunk.marks.append(MarkAddress(address, flags))
        self._touched = later
        self.ops += self._chunk.in_order()
        self._chunk = Phases()

    def close(self) -> list[Op]:
        """All operations."""
        self.close_chunk()
        return [*self.ops, *self._late]

    def _own_ids(self, own: Iterable[int]) -> dict[Backend, int]:
        """The ids of a frontend's backends; of several for one backend the lowest, and 0 is none."""
        entries = ((number, self._now.backends[number]) for number in sorted(own, reverse=True) if number)
        return {(entry.address, entry.port): number for number, entry in entries}

    def _arrange(
        self, slots: dict[int, ServiceEntry], backends: tuple[Backend, ...], ids: dict[Backend, int]
    ) -> tuple[Backend, ...]:
        """`backends` in slot order: those that have a slot keep it if it remains, the others fill the holes."""
        wanted = {ids[backend]: backend for backend in backends if backend in ids}
        kept: dict[int, Backend] = {}
        for slot in range(1, len(backends) + 1):
            entry = slots.get(slot)
            backend = wanted.pop(entry.backend_id, None) if entry is not None else None
            if backend is not None:
                kept[slot] = backend
        taken = set(kept.values())
        others = iter([backend for backend in backends if backend not in taken])
        return tuple(kept[slot] if slot in kept else next(others) for slot in range(1, len(backends) + 1))

    def _offer(self, frontend: Frontend, service_id: int, backend: Backend, ids: dict[Backend, int]) -> int:
        """The id of a backend, which is written first if it is not there or drains."""
        entry = BackendEntry(*backend, service_id)
        backend_id = ids.get(backend) or self._new_backend_id()
        if self._now.backends.get(backend_id) != entry:
            self._chunk.backends.append(PutBackend(backend_id, entry, frontend))
        return backend_id

    def _drain(self, frontend: Frontend, service_id: int, draining: list[int], offered: set[int]) -> list[int]:
        """Let the backends `draining` keep their flows; those that are not there have none. Gives those that drain."""
        drained = [number for number in dict.fromkeys(draining) if number not in offered]
        for number in drained:
            old = self._now.backends[number]
            entry = BackendEntry(old.address, old.port, service_id, BACKEND_DRAINING)
            if old != entry:
                self._chunk.draining.append(PutBackend(number, entry, frontend))
        return drained

    def _drop_backends(self, ids: Iterable[int], frontend: Frontend | None) -> None:
        for number in ids:
            target = self._late if number in self._now.crossed else self._chunk.old_backends
            target.append(DeleteBackend(number, frontend))

    def _new_backend_id(self) -> int:
        while True:
            self._backend_cursor = self._backend_cursor % MAX_ID + 1
            # Neither conntrack nor a dangling slot may get a backend it was never meant to have.
            if self._backend_cursor not in self._now.backends and self._backend_cursor not in self._now.past:
                return self._backend_cursor

    def _service_id(self, frontend: Frontend, master: ServiceEntry | None) -> int:
        """The id that a service has or is promised, or a fresh one if it has none of its own."""
        now, promised = self._now, self._now.promised.get(frontend)
        if promised is None and master is not None and master.service_id and now.owners(master.service_id) == 1:
            return master.service_id
        if master is not None:
            self._leave(frontend, master.service_id)
        if promised is not None:
            return promised
        while True:
            self._service_cursor = number = self._service_cursor % MAX_ID + 1
            if not now.owners(number) and number not in now.ids_of and number not in now.past:
                return number

    def _leave(self, frontend: Frontend, service_id: int) -> None:
        """A frontend gives an id up; with the last one its backends and counters go."""
        self._left[service_id] += 1
        if self._left[service_id] >= self._now.owners(service_id):
            self._drop_backends(sorted(self._now.ids_of.get(service_id, ())), frontend)
            self._chunk.counters.append(DeleteCounters(service_id))

    def _mark(self, frontend: Frontend, has_backends: bool, cluster_ip: bool) -> None:
        if (frontend in self._now.cluster_ips) != cluster_ip and frontend[0] not in ANY_NODE:
            self._chunk.notes.append(NoteClusterIp(frontend, cluster_ip))
        self._ask(frontend, _asked(has_backends, cluster_ip))

    def _ask(self, frontend: Frontend, flags: int) -> None:
        self._after.setdefault(frontend[0], {})[frontend] = flags
        self._touched.add(frontend[0])

    def _flags(self, address: str) -> int:
        """What SERVICE_MARKS an address has after all operations so far."""
        flags, after = self._asked_for(address), self._after.get(address, {})
        for frontend in self._now.frontends_at.get(address, ()):
            if frontend not in after and address not in ANY_NODE:
                master = self._now.slots[frontend].get(0, ServiceEntry())
                flags |= _asked(master.count > 0, frontend in self._now.cluster_ips)
        return flags

    def _asked_for(self, address: str) -> int:
        """What this plan asks for it so far."""
        flags = ADDRESS_NODE_PORT if address in self._nodes else 0
        if address not in ANY_NODE:
            for asked in self._after.get(address, {}).values():
                flags |= asked
        return flags


def _asked(has_backends: bool, cluster_ip: bool) -> int:
    """The flags that a frontend asks for its address."""
    if not cluster_ip:
        return ADDRESS_FRONTEND
    return ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP | (ADDRESS_ENDPOINTS if has_backends else 0)
