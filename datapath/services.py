"""What to write into `services4` and `backends4`, in an order that never leaves a service without a backend.

Theory of operation. A packet reads slot 0 of its frontend (count), then one slot of 1..count (a backend id), then that
backend; each read may fall between any two of our writes. So a changed frontend is written backends first, then slots
(overwriting in place: old and new backends exist both), then slot 0 with the new count, then the surplus slots go, and
at the very end the backends that no slot names any more. A backend that stays keeps its slot where it can, so that
one changed endpoint costs a few writes and not a list. Ids are never given again soon: conntrack may still hold them.

`Programmed` is what the maps hold, with indexes, kept exact write by write (also when a write fails midway: plan again
and go on from there). It is adopted from the pinned maps after a start, as untrusted input: a slot that names no
backend, a count beyond the slots, two services with one id, frontends nobody wants are all repaired by the next plan.

`plan` and `plan_changes` are pure; `apply` acts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from typing import Final, Protocol, TypeVar

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import (
    MAX_ID,
    Backend,
    DeleteBackend,
    DeleteService,
    Frontend,
    Op,
    Programmed,
    PutBackend,
    PutService,
)

__all__ = ["Backend", "Frontend", "Op", "Programmed", "ServiceMaps", "apply", "plan", "plan_changes"]

MAX_BACKENDS_PER_FRONTEND: Final = 2**16 - 1  # slot is a u16

F = TypeVar("F", bound=Frontend)  # so that callers may have a named tuple of their own

_PROTOCOLS: Final = frozenset({"TCP", "UDP"})


class ServiceMaps(Protocol):
    """The part of `datapath.maps.Maps` that is written here."""

    def put_service(self, key: ServiceKey, entry: ServiceEntry) -> None: ...

    def delete_service(self, key: ServiceKey) -> None: ...

    def put_backend(self, backend_id: int, entry: BackendEntry) -> None: ...

    def delete_backend(self, backend_id: int) -> None: ...


def plan(
    programmed: Programmed,
    wanted: Mapping[F, tuple[Backend, ...]],
    never_empty: Container[Frontend] = frozenset(),
) -> list[Op]:
    """The operations that make the maps say `wanted` and nothing else; none when they do already.

    A frontend with () refuses its callers. Those in `never_empty` (default/kubernetes) keep the backends they have
    instead. Raises ValueError for a protocol other than TCP and UDP and for more backends than slots.
    """
    changes: dict[Frontend, tuple[Backend, ...] | None] = {
        frontend: None for frontend in programmed.slots if frontend not in wanted
    }
    for frontend, backends in wanted.items():
        changes[frontend] = backends
    return plan_changes(programmed, changes, never_empty)


def plan_changes(
    programmed: Programmed,
    changes: Mapping[F, tuple[Backend, ...] | None],
    never_empty: Container[Frontend] = frozenset(),
) -> list[Op]:
    """The same for the changed frontends only (None: it went): work in proportion to them, not to the maps."""
    planner = _Planner(programmed)
    # What goes, goes first: it makes room in the map.
    for frontend, backends in changes.items():
        if backends is None:
            planner.remove(frontend)
    for frontend, backends in changes.items():
        if backends is None:
            continue
        if frontend[2] not in _PROTOCOLS:
            raise ValueError(f"{frontend}: the protocol is none of TCP, UDP")
        if not backends and frontend in never_empty:
            backends = programmed.backends_of(frontend)
        unique = dict.fromkeys(backends)
        if len(unique) > MAX_BACKENDS_PER_FRONTEND:
            raise ValueError(f"{frontend}: {len(unique)} backends, at most {MAX_BACKENDS_PER_FRONTEND} fit")
        planner.put(frontend, unique)
    planner.remove_unused_backends()
    return planner.ops


def apply(ops: Iterable[Op], maps: ServiceMaps, programmed: Programmed) -> None:
    """Carry out `ops`, noting each in `programmed`.

    An OSError of the maps (E2BIG: full) passes through; `programmed` then says what has been done, so plan again later.
    """
    for op in ops:
        if isinstance(op, PutService):
            maps.put_service(op.key, op.entry)
        elif isinstance(op, PutBackend):
            maps.put_backend(op.backend_id, op.entry)
        elif isinstance(op, DeleteService):
            maps.delete_service(op.key)
        else:
            maps.delete_backend(op.backend_id)
        programmed.record(op)


class _Planner:
    """One plan in the making: the operations so far and what they would change in the indexes of `programmed`."""

    def __init__(self, programmed: Programmed) -> None:
        self.ops: list[Op] = []
        self._now = programmed
        self._new_ids: dict[Backend, int] = {}
        self._users: Counter[int] = Counter()  # change in the number of slots that name a backend id
        self._backend_cursor = programmed.last_backend_id
        self._service_cursor = programmed.last_service_id

    def remove(self, frontend: Frontend) -> None:
        """Delete every slot of a frontend, the service itself first, so that nobody looks for the others any more."""
        for slot in sorted(self._now.slots.get(frontend, {})):
            self._delete(frontend, slot)

    def put(self, frontend: Frontend, backends: Iterable[Backend]) -> None:
        """Make `backends`, each of which is there once, those of a frontend."""
        slots = self._now.slots.get(frontend, {})
        arranged = self._arrange(frontend, list(backends))
        ids = [self._ensure(backend) for backend in arranged]
        for slot, backend_id in enumerate(ids, start=1):
            entry = ServiceEntry(backend_id=backend_id)
            if slots.get(slot) != entry:
                self._put(frontend, slot, entry)
        master = ServiceEntry(service_id=self._service_id(slots.get(0)), count=len(ids))
        if slots.get(0) != master:
            self._put(frontend, 0, master)
        for slot in sorted(slot for slot in slots if slot > len(ids)):
            self._delete(frontend, slot)

    def remove_unused_backends(self) -> None:
        """Delete the backends that no slot names after all operations so far."""
        for backend_id in sorted(self._now.unused | self._users.keys()):
            if backend_id in self._now.backends and not self._now.users(backend_id) + self._users[backend_id]:
                self.ops.append(DeleteBackend(backend_id))

    def _arrange(self, frontend: Frontend, backends: list[Backend]) -> list[Backend]:
        """`backends` in slot order: those that have a slot keep it if it remains, the others fill the holes."""
        wanted = set(backends)
        kept: dict[int, Backend] = {}
        for slot in range(1, len(backends) + 1):
            backend = self._now.backend_at(frontend, slot)
            if backend in wanted:
                kept[slot] = backend
                wanted.discard(backend)
        others = iter([backend for backend in backends if backend in wanted])
        return [kept[slot] if slot in kept else next(others) for slot in range(1, len(backends) + 1)]

    def _ensure(self, backend: Backend) -> int:
        """The id of a backend, which is written first if it is not there."""
        known = self._now.id_of(backend) or self._new_ids.get(backend)
        if known is not None:
            return known
        while True:
            self._backend_cursor = self._backend_cursor % MAX_ID + 1
            # An id that a dangling slot still names would give that slot a backend it was never meant to have.
            if self._backend_cursor not in self._now.backends and not self._now.users(self._backend_cursor):
                break
        self._new_ids[backend] = self._backend_cursor
        self.ops.append(PutBackend(self._backend_cursor, BackendEntry(*backend)))
        return self._backend_cursor

    def _service_id(self, master: ServiceEntry | None) -> int:
        """The id that a service has, or a fresh one if it has none of its own."""
        if master is not None and master.service_id and self._now.services(master.service_id) == 1:
            return master.service_id
        while True:
            self._service_cursor = self._service_cursor % MAX_ID + 1
            if not self._now.services(self._service_cursor):
                return self._service_cursor

    def _put(self, frontend: Frontend, slot: int, entry: ServiceEntry) -> None:
        self._release(frontend, slot)
        if slot:
            self._users[entry.backend_id] += 1
        self.ops.append(PutService(ServiceKey(*frontend, slot), entry))

    def _delete(self, frontend: Frontend, slot: int) -> None:
        self._release(frontend, slot)
        self.ops.append(DeleteService(ServiceKey(*frontend, slot)))

    def _release(self, frontend: Frontend, slot: int) -> None:
        old = self._now.slots.get(frontend, {}).get(slot)
        if slot and old is not None:
            self._users[old.backend_id] -= 1
