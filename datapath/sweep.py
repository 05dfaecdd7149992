"""Deleting what is over: flows (datapath/ageing.py says which), and what clients and counters hold of removed backends.

Everything is read again right before it is deleted, and left if it changed meanwhile. Blocking, for a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from datapath import bpfcall
from datapath.abi import U32
from datapath.ageing import Met, Orphans, Pair, Walk, keys_of, pair_of_forward, pair_of_reverse
from datapath.columns import columns
from datapath.maps import Maps

_CLIENT = columns("affinity_key", "service_id")
_CHOICE = columns("affinity", "backend_id")


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep of conntrack met and did: `flows` by backend id, `orphans` that the next one may delete."""

    entries: int
    flows: Mapping[int, int]
    expired: int
    orphaned: int
    orphans: Orphans


class FlowTable:
    """The conntrack table as packed entries."""

    def __init__(self, maps: Maps) -> None:
        self._fd, (_, self._value_size) = maps.conntrack.fd, maps.conntrack.sizes

    def get(self, key: bytes) -> bytes | None:
        """Give the value, None when there is none."""
        return bpfcall.lookup(self._fd, key, self._value_size)

    def delete(self, key: bytes) -> None:
        """Delete an entry, if it is there."""
        bpfcall.delete(self._fd, key)


def sweep_flows(maps: Maps, now_ns: int, earlier: Orphans) -> Swept:
    """Delete the flows that are over, and the orphans that were orphans in the `earlier` sweep. OSError of the maps."""
    walk = Walk(now_ns)
    for keys, values in maps.conntrack.batches():
        walk.take(keys, values)
    table = FlowTable(maps)
    expired = sum(_end(table, met, walk.callers) for met in walk.expired)
    orphans = walk.orphans()
    old = orphans.also_in(earlier)
    orphaned = sum(_end_forward(table, pair, old.callers) for pair in old.forwards)
    orphaned += sum(_end_reverse(table, pair, old.callers) for pair in old.reverses)
    return Swept(walk.entries, walk.flows, expired, orphaned, orphans)


Callers = Mapping[Pair, bytes]


def _end(table: FlowTable, met: Met, callers: Callers) -> bool:
    """Delete a silent reverse entry and its twin, the twin first: a packet between the two opens a flow anew."""
    if table.get(met.key) != met.value:
        return False
    pair = pair_of_reverse(*met)
    twin, _ = keys_of(pair, callers)
    if _has_forward(table, pair, twin):
        table.delete(twin)
        if table.get(met.key) != met.value:  # that new flow has taken the entry over
            return False
    table.delete(met.key)
    return True


def _end_forward(table: FlowTable, pair: Pair, callers: Callers) -> bool:
    key, answer = keys_of(pair, callers)
    if not _has_forward(table, pair, key) or _has_reverse(table, pair, answer):
        return False
    table.delete(key)
    return True


def _end_reverse(table: FlowTable, pair: Pair, callers: Callers) -> bool:
    key, answer = keys_of(pair, callers)
    if _has_forward(table, pair, key) or not _has_reverse(table, pair, answer):
        return False
    table.delete(answer)
    return True


def _has_forward(table: FlowTable, pair: Pair, key: bytes) -> bool:
    value = table.get(key)
    return value is not None and pair_of_forward(key, value) == pair


def _has_reverse(table: FlowTable, pair: Pair, key: bytes) -> bool:
    value = table.get(key)
    return value is not None and pair_of_reverse(key, value) == pair


Stale = frozenset[tuple[bytes, bytes]]
"""Packed entries that name what is not programmed."""


def sweep_affinity(
    maps: Maps, has_service: Callable[[int], bool], has_backend: Callable[[int], bool], earlier: Stale
) -> Stale:
    """Delete the clients' choices of removed backends that were so in the `earlier` sweep; gives those of this one."""
    table, found = maps.affinity, set[tuple[bytes, bytes]]()
    key_size, value_size = table.sizes
    for keys, values in table.batches():
        rows = zip(_CLIENT.iter_unpack(keys), _CHOICE.iter_unpack(values), strict=True)
        packed = zip(bpfcall.cut(keys, key_size), bpfcall.cut(values, value_size), strict=True)
        found |= {
            entry
            for ((service_id,), (backend_id,)), entry in zip(rows, packed, strict=True)
            if not (has_backend(backend_id) and has_service(service_id))
        }
    for key, value in found & earlier:
        if bpfcall.lookup(table.fd, key, value_size) == value:
            bpfcall.delete(table.fd, key)
    return frozenset(found)


def sweep_counters(maps: Maps, has_service: Callable[[int], bool], earlier: frozenset[int]) -> frozenset[int]:
    """The same for flow counters: a packet may have counted for a frontend just after it went."""
    ids: Iterable[int] = (number for keys, _ in maps.flow_counters.batches() for (number,) in U32.iter_unpack(keys))
    found = frozenset(number for number in ids if not has_service(number))
    for number in found & earlier:
        bpfcall.delete(maps.flow_counters.fd, U32.pack(number))
    return found
