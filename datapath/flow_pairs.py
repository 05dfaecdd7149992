"""The conntrack map seen as flows: forward and reverse entries put together again. Pure: packed entries in.

A table may be full (131,072 entries), so entries stay packed until they are known to be wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from datapath import bpfcall
from datapath.abi import CT_FORWARD, CT_REVERSE, CT_TO_SELF, SERVICE_NONE, layout
from datapath.ageing import forward_key, reverse_key
from datapath.entries import pack_ip, pack_port, protocol_name, protocol_number, unpack_ip, unpack_port

_FLOW, _CONNTRACK = layout("flow"), layout("conntrack")

Packed = dict[bytes, bytes]
"""Conntrack entries by their key, both as they lie in the map."""


class Client(NamedTuple):
    """The pod's end of a flow, and the frontend it names (of a direct flow: the peer)."""

    address: str
    port: int
    frontend: str
    frontend_port: int
    protocol: str


class Pair(NamedTuple):
    """One flow. `source_port` is the one on the wire; `last_seen_ns` is None when the reverse entry is missing.

    `lost` says which half is missing: "", "forward" or "reverse".
    """

    client: Client
    backend: str
    backend_port: int
    source_port: int
    service_id: int
    backend_id: int
    flags: int
    last_seen_ns: int | None
    lost: str

    @property
    def direct(self) -> bool:
        """Whether it is a flow to no Service, which only got another source port."""
        return self.service_id == SERVICE_NONE


class Wanted(NamedTuple):
    """Which flows: of pods with one of `clients` (packed; None: any), to one of `frontends` (packed; None: any)."""

    clients: frozenset[bytes] | None = None
    frontends: frozenset[bytes] | None = None


ANY: Final = Wanted()


class Found(NamedTuple):
    """A flow before it is decoded: its forward key; `orphan_key` is its reverse entry's when only that is left."""

    key: bytes
    orphan_key: bytes


def packed_frontend(address: str, port: int, protocol: str) -> bytes:
    """A frontend as `Wanted` has it. OSError when `address` is none."""
    return pack_ip(address) + pack_port(port) + bytes([protocol_number(protocol)])


def snapshot(batches: Iterable[tuple[bytes, bytes]]) -> Packed:
    """All entries, from what `Table.batches` gives."""
    found: Packed = {}
    for keys, values in batches:
        found.update(zip(bpfcall.cut(keys, _FLOW.size), bpfcall.cut(values, _CONNTRACK.size), strict=True))
    return found


def find(entries: Packed, wanted: Wanted = ANY) -> Iterator[Found]:
    """Every wanted flow, in the order of the table."""
    to_self = {reverse_key(key, value) for key, value in entries.items() if key[37] == CT_FORWARD and _is_own(value)}
    for key, value in entries.items():
        if key[37] == CT_FORWARD:
            if _is_wanted(key, wanted):
                yield Found(key, b"")
        elif key[37] == CT_REVERSE:
            twin = forward_key(key, value)
            if twin not in entries and key not in to_self and _is_wanted(twin, wanted):
                yield Found(twin, key)


def pair(entries: Packed, found: Found) -> Pair:
    """Put a flow of these entries together."""
    if found.orphan_key:
        return _orphan(found.key, found.orphan_key, entries[found.orphan_key])
    return _whole(found.key, entries)


def count_by_backend(entries: Packed) -> Mapping[int, int]:
    """Flows by backend id, of the forward entries."""
    counts: dict[int, int] = {}
    for key, value in entries.items():
        if key[37] == CT_FORWARD:
            backend_id = int.from_bytes(value[24:28], "little")
            counts[backend_id] = counts.get(backend_id, 0) + 1
    return counts


def _is_wanted(key: bytes, wanted: Wanted) -> bool:
    if wanted.clients is not None and key[:16] not in wanted.clients:
        return False
    frontend = key[16:32] + key[34:36] + key[36:37]
    return wanted.frontends is None or frontend in wanted.frontends


def _is_own(forward: bytes) -> bool:
    """Whether the backend is the pod that calls."""
    return bool(forward[28] & CT_TO_SELF)


@lru_cache(maxsize=4096)
def _address(raw: bytes) -> str:
    return unpack_ip(raw)


def _client(key: bytes) -> Client:
    saddr, daddr, sport, dport, proto, _, _ = _FLOW.unpack(key)
    return Client(_address(saddr), unpack_port(sport), _address(daddr), unpack_port(dport), protocol_name(proto))


def _whole(key: bytes, entries: Packed) -> Pair:
    value = entries[key]
    answer = entries.get(reverse_key(key, value))
    addr, port, client_port, service_id, backend_id, *_ = _CONNTRACK.unpack(value)
    wire = _address(addr), unpack_port(port), unpack_port(client_port), service_id, backend_id
    if answer is None or answer[:20] != b"".join((key[16:32], key[34:36], key[32:34])):
        return Pair(_client(key), *wire, 0, None, "reverse")
    return Pair(_client(key), *wire, *_state(answer), "")


def _orphan(key: bytes, answer_key: bytes, value: bytes) -> Pair:
    answer = _client(answer_key)  # from the backend's side
    _, _, _, service_id, backend_id, *_ = _CONNTRACK.unpack(value)
    wire = answer.address, answer.port, answer.frontend_port, service_id, backend_id
    return Pair(_client(key), *wire, *_state(value), "forward")


def _state(reverse: bytes) -> tuple[int, int]:
    """Flags and last_seen_ns."""
    _, _, _, _, _, flags, _, seen, *_ = _CONNTRACK.unpack(reverse)
    return flags, seen
