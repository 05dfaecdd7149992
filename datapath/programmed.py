"""What the load balancer's maps hold, indexed, and the operations that change them.

`Programmed` mirrors `services4` and `backends4` entry by entry. It takes pinned maps over as they are and judges
nothing; `datapath.services` plans the repairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from datapath.entries import BackendEntry, ServiceEntry, ServiceKey

Frontend = tuple[str, int, str]
"""(address, port, "TCP" or "UDP")."""

Backend = tuple[str, int]
"""(address, port)."""

MAX_ID: Final = 2**32 - 1
"""Ids of services and backends go from 1 to this one, then round."""


@dataclass(frozen=True, slots=True)
class PutBackend:
    backend_id: int
    entry: BackendEntry


@dataclass(frozen=True, slots=True)
class PutService:
    key: ServiceKey
    entry: ServiceEntry


@dataclass(frozen=True, slots=True)
class DeleteService:
    key: ServiceKey


@dataclass(frozen=True, slots=True)
class DeleteBackend:
    backend_id: int


Op = PutBackend | PutService | DeleteService | DeleteBackend


class Programmed:
    """What the two maps hold now. Not thread-safe: plan and apply one after the other."""

    def __init__(self) -> None:
        self.slots: dict[Frontend, dict[int, ServiceEntry]] = {}  # slot 0 is the service itself
        self.backends: dict[int, Backend] = {}
        self.unused: set[int] = set()  # backends that no slot names
        self.last_backend_id = 0
        self.last_service_id = 0
        self._id_of: dict[Backend, int] = {}
        self._users: Counter[int] = Counter()  # backend id -> slots that name it
        self._services: Counter[int] = Counter()  # service id -> frontends that have it

    @classmethod
    def adopt(
        cls,
        services: Mapping[ServiceKey, ServiceEntry],
        backends: Mapping[int, BackendEntry],
        past_ids: Iterable[int] = (),
    ) -> Programmed:
        """Take over the maps' content as it is, sound or not.

        `past_ids`: backend and service ids that something outside the maps still holds (conntrack); new ids come after.
        """
        programmed = cls()
        for backend_id, backend in backends.items():
            programmed.record(PutBackend(backend_id, backend))
        for key, entry in services.items():
            programmed.record(PutService(key, entry))
        past = max(past_ids, default=0)
        programmed.last_backend_id = max(past, *programmed.backends, 0)
        programmed.last_service_id = max(past, *programmed._services, 0)
        return programmed

    def record(self, op: Op) -> None:
        """Note an operation that the maps have taken."""
        if isinstance(op, PutService):
            self._put_service(op.key, op.entry)
        elif isinstance(op, DeleteService):
            self._delete_service(op.key)
        elif isinstance(op, PutBackend):
            backend = (op.entry.address, op.entry.port)
            self.backends[op.backend_id] = backend
            if self.id_of(backend) is None:
                self._id_of[backend] = op.backend_id
            self.last_backend_id = op.backend_id
            self._weigh(op.backend_id)
        else:
            backend = self.backends.pop(op.backend_id)
            if self._id_of.get(backend) == op.backend_id:
                del self._id_of[backend]
            self._weigh(op.backend_id)

    def id_of(self, backend: Backend) -> int | None:
        """The id under which slots may name a backend; None when it has none (0 counts as none)."""
        return self._id_of.get(backend) or None

    def backend_at(self, frontend: Frontend, slot: int) -> Backend | None:
        """The backend that a slot names, None for an empty or unsound slot."""
        entry = self.slots.get(frontend, {}).get(slot)
        backend = self.backends.get(entry.backend_id) if entry is not None else None
        return backend if entry is not None and backend and self.id_of(backend) == entry.backend_id else None

    def backends_of(self, frontend: Frontend) -> tuple[Backend, ...]:
        """The sound backends that packets to a frontend may reach now, in the order of their slots."""
        master = self.slots.get(frontend, {}).get(0)
        found = (self.backend_at(frontend, slot) for slot in range(1, (master.count if master else 0) + 1))
        return tuple(dict.fromkeys(backend for backend in found if backend is not None))

    def users(self, backend_id: int) -> int:
        """How many slots name a backend id, whether or not it is there."""
        return self._users[backend_id]

    def services(self, service_id: int) -> int:
        """How many frontends have a service id."""
        return self._services[service_id]

    def _put_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        old = self._forget(key)
        self.slots.setdefault(frontend_of(key), {})[key.slot] = entry
        if key.slot:
            self._users[entry.backend_id] += 1
            self._weigh(entry.backend_id)
        else:
            self._services[entry.service_id] += 1
            if old is None or old.service_id != entry.service_id:
                self.last_service_id = entry.service_id

    def _delete_service(self, key: ServiceKey) -> None:
        self._forget(key)
        slots = self.slots[frontend_of(key)]
        del slots[key.slot]
        if not slots:
            del self.slots[frontend_of(key)]

    def _forget(self, key: ServiceKey) -> ServiceEntry | None:
        """Take the entry that stands at `key` out of the indexes, and give it."""
        old = self.slots.get(frontend_of(key), {}).get(key.slot)
        if old is None:
            return None
        index, number = (self._users, old.backend_id) if key.slot else (self._services, old.service_id)
        index[number] -= 1
        if not index[number]:
            del index[number]
        if key.slot:
            self._weigh(number)
        return old

    def _weigh(self, backend_id: int) -> None:
        if backend_id in self.backends and not self._users[backend_id]:
            self.unused.add(backend_id)
        else:
            self.unused.discard(backend_id)


def frontend_of(key: ServiceKey) -> Frontend:
    """The frontend that a slot belongs to."""
    return key.address, key.port, key.protocol
