"""Which ids are still in use outside of `services` and `backends`: they must not be given to somebody else."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from datapath.abi import U32
from datapath.columns import columns
from datapath.maps import Maps

_ENTRY_IDS = columns("conntrack", "service_id", "backend_id")
_CLIENT_IDS = columns("affinity_key", "service_id")
_AFFINITY_IDS = columns("affinity", "backend_id")
_PEER_IDS = columns("socket_peer", "service_id", "backend_id")


def held_ids(maps: Maps) -> set[int]:
    """The service and backend ids that flows, clients, sockets and counters hold, whoever gave them."""
    found: set[int] = set()
    for _, values in maps.conntrack.batches():
        _collect(found, _ENTRY_IDS, values)
    for keys, values in maps.affinity.batches():
        _collect(found, _CLIENT_IDS, keys)
        _collect(found, _AFFINITY_IDS, values)
    for table in (maps.socket_backends, maps.socket_frontends):
        for _, values in table.batches():
            _collect(found, _PEER_IDS, values)
    for keys, _ in maps.flow_counters.batches():
        _collect(found, U32, keys)
    return found


def _collect(found: set[int], fields: struct.Struct, packed: bytes) -> None:
    rows: Iterable[tuple[int, ...]] = fields.iter_unpack(packed)
    for row in rows:
        found.update(row)
