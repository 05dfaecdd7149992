"""What to write into the load balancer's maps, in an order that never leaves a service without a backend.

Theory of operation. A packet reads what its destination address is, then slot 0 of its frontend (count), then one slot
of 1..count (a backend id), then that backend; each read may fall between any two of our writes. So of changed frontends
the backends are written first, then slots (overwriting in place: old and new backends exist both), then slot 0 with the
new count, then the address's flags; then backends that drain get their flag, the surplus slots go, and at the very end
the backends that the frontend does not have any more, and the counters of ids that nobody has any more. A frontend that
goes loses slot 0 first, then its address's flags: for a moment it is refused, and never sent to the gateway. A backend
that stays keeps its slot where it can, so that one changed endpoint costs a few writes and not a list. Each frontend
has ids of its own, for itself and for its backends; they are never given again soon: conntrack may still hold them.

`Programmed` is what the maps hold, with indexes, kept exact write by write (also when a batch fails midway: plan again
and go on from there). It is adopted from the pinned maps after a start, as untrusted input: a slot that names no
backend, a count beyond the slots, two services with one id, backends and flags of nobody are all repaired by the next
plan.

`plan` and `plan_changes` are pure; `apply` acts.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, Protocol, TypeVar

from datapath.bpfcall import BatchError
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.programmed import (
    SERVICE_MARKS,
    DeleteBackend,
    DeleteCounters,
    DeleteService,
    Frontend,
    GoneBackend,
    MarkAddress,
    Offer,
    Op,
    Programmed,
    PutBackend,
    PutService,
)
from datapath.service_plan import Planner
from datapath.table import Number

__all__ = ["GoneBackend", "Offer", "Op", "Programmed", "ServiceMaps", "apply", "plan", "plan_changes"]

MAX_BACKENDS_PER_FRONTEND: Final = 2**16 - 1  # slot is a u16
CHUNK: Final = 512
"""Frontends that share their phases: enough for good batches, and the first of 10,000 are there early."""
BATCH: Final = 4096
"""Operations in one call."""

F = TypeVar("F", bound=Frontend)  # so that callers may have a named tuple of their own
K_contra = TypeVar("K_contra", contravariant=True)
V_contra = TypeVar("V_contra", contravariant=True)

PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})


class Writable(Protocol[K_contra, V_contra]):
    """The part of `datapath.table.Table` that is used here."""

    def put_many(self, entries: Sequence[tuple[K_contra, V_contra]], /) -> None: ...

    def delete_many(self, keys: Iterable[K_contra], /) -> None: ...


class Deletable(Protocol[K_contra]):
    """A table of which only deletes are wanted."""

    def delete_many(self, keys: Iterable[K_contra], /) -> None: ...


class ServiceMaps(Protocol):
    """The part of `datapath.maps.Maps` that is written here."""

    @property
    def services(self) -> Writable[ServiceKey, ServiceEntry]: ...

    @property
    def backends(self) -> Writable[Number, BackendEntry]: ...

    @property
    def flow_counters(self) -> Deletable[Number]: ...

    def mark_address(self, address: str, mask: int, flags: int) -> None: ...


def plan(
    programmed: Programmed,
    wanted: Mapping[F, Offer],
    node_addresses: Collection[str] = (),
    never_empty: Container[Frontend] = frozenset(),
) -> list[Op]:
    """The operations that make the maps say `wanted` and nothing else; none when they do already.

    `node_addresses`: those at which NodePorts (frontends at "0.0.0.0" and "::") may be called. A frontend without
    backends refuses its callers. Those in `never_empty` (default/kubernetes) keep the backends they have instead.
    Raises ValueError for an unknown protocol and for more backends than slots.
    """
    changes: dict[Frontend, Offer | None] = {
        frontend: None for frontend in (*programmed.slots, *programmed.promised) if frontend not in wanted
    }
    for frontend, offer in wanted.items():
        changes[frontend] = offer
    planner = Planner(programmed, node_addresses)
    planner.touch(programmed.marks)
    return _fill(planner, programmed, changes, never_empty)


def plan_changes(
    programmed: Programmed,
    changes: Mapping[F, Offer | None],
    node_addresses: Collection[str] | None = None,
    never_empty: Container[Frontend] = frozenset(),
) -> list[Op]:
    """The same for the changed frontends only (None: it went): work in proportion to them, not to the maps.

    `node_addresses` None: they are what they were.
    """
    return _fill(Planner(programmed, node_addresses), programmed, changes, never_empty)


def _fill(
    planner: Planner, programmed: Programmed, changes: Mapping[F, Offer | None], never_empty: Container[Frontend]
) -> list[Op]:
    staying = {frontend: offer for frontend, offer in changes.items() if offer is not None}
    planner.await_(staying)
    # What goes, goes first: it makes room in the maps.
    planner.remove_orphans()
    for frontend, offer in changes.items():
        if offer is None:
            planner.remove(frontend)
    planner.close_chunk()
    # Then what is there already: if the maps are full, only new frontends suffer.
    for new in (False, True):
        group = [frontend for frontend in staying if (0 not in programmed.slots.get(frontend, ())) is new]
        address, count = "", 0
        for frontend in sorted(group, key=_address):
            if count >= CHUNK and frontend[0] != address:
                planner.close_chunk()
                count = 0
            address, count = frontend[0], count + 1
            planner.put(frontend, _checked(frontend, staying[frontend], programmed, never_empty))
        planner.close_chunk()
    return planner.close()


def _address(frontend: Frontend) -> str:
    return frontend[0]


def _checked(frontend: Frontend, offer: Offer, programmed: Programmed, never_empty: Container[Frontend]) -> Offer:
    """The offer with every backend once, and never without one where that must not be. Raises ValueError."""
    backends, draining, affinity_s, cluster_ip, service = offer
    if frontend[2] not in PROTOCOLS:
        raise ValueError(f"{frontend}: the protocol is none of TCP, UDP, SCTP")
    if not backends and frontend in never_empty:
        backends = programmed.backends_of(frontend)
    unique = tuple(dict.fromkeys(backends))
    if len(unique) > MAX_BACKENDS_PER_FRONTEND:
        raise ValueError(f"{frontend}: {len(unique)} backends, at most {MAX_BACKENDS_PER_FRONTEND} fit")
    return unique, draining, affinity_s, cluster_ip, service


def apply(ops: Iterable[Op], maps: ServiceMaps, programmed: Programmed) -> None:
    """Carry out `ops`, those of one kind in a row as batches, noting each in `programmed`.

    An OSError of the maps (E2BIG: full) passes through; `programmed` then says what has been done, so plan again later.
    """
    for _, group in groupby(ops, type):
        alike = list(group)
        for begin in range(0, len(alike), BATCH):
            batch = alike[begin : begin + BATCH]
            try:
                _write(batch, maps)
            except BatchError as error:
                _record(batch[: error.done], programmed)
                raise
            _record(batch, programmed)


def _record(ops: Iterable[Op], programmed: Programmed) -> None:
    for op in ops:
        programmed.record(op)


def _write(batch: list[Op], maps: ServiceMaps) -> None:
    """Write operations of one kind. Raises BatchError, which says how many were taken."""
    if isinstance(batch[0], PutService):
        maps.services.put_many([(op.key, op.entry) for op in batch if isinstance(op, PutService)])
    elif isinstance(batch[0], PutBackend):
        maps.backends.put_many([(Number(op.backend_id), op.entry) for op in batch if isinstance(op, PutBackend)])
    elif isinstance(batch[0], DeleteService):
        maps.services.delete_many([op.key for op in batch if isinstance(op, DeleteService)])
    elif isinstance(batch[0], DeleteBackend):
        maps.backends.delete_many([Number(op.backend_id) for op in batch if isinstance(op, DeleteBackend)])
    elif isinstance(batch[0], DeleteCounters):
        maps.flow_counters.delete_many([Number(op.service_id) for op in batch if isinstance(op, DeleteCounters)])
    elif isinstance(batch[0], MarkAddress):
        _mark([op for op in batch if isinstance(op, MarkAddress)], maps)


def _mark(batch: list[MarkAddress], maps: ServiceMaps) -> None:
    for done, op in enumerate(batch):
        try:
            maps.mark_address(op.address, SERVICE_MARKS, op.flags)
        except OSError as error:
            raise BatchError(error.errno, error.strerror or str(error), done) from error
