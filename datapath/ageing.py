"""Which conntrack entries are over, decided from one walk of the table. Pure: packed entries in, keys out.

All state is in the reverse entry: when the flow was last seen and which ends it came to. An entry without its twin (the
LRU took it, or the walk met a pair half made) is an orphan; seen in two walks in a row, it is over, too. How twins find
each other is in bpf/lib/conntrack.h.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from socket import IPPROTO_SCTP, IPPROTO_TCP
from typing import Final, NamedTuple

from datapath import bpfcall
from datapath.abi import (
    CT_ANSWERED,
    CT_CLOSING,
    CT_FORWARD,
    CT_PEER_FIN,
    CT_POD_FIN,
    CT_RESET,
    CT_TO_SELF,
    HAIRPIN_ADDRESS,
    HAIRPIN_ADDRESS6,
    layout,
)
from datapath.columns import columns
from datapath.entries import pack_ip

SECOND_NS: Final = 1_000_000_000
ESTABLISHED_NS: Final = 6 * 3600 * SECOND_NS
HALF_CLOSED_NS: Final = 3600 * SECOND_NS
UNANSWERED_NS: Final = 60 * SECOND_NS
DATAGRAM_NS: Final = 60 * SECOND_NS
CLOSING_NS: Final = 10 * SECOND_NS
FUTURE_NS: Final = 60 * SECOND_NS
"""An entry seen later than this from now was not written by the programs' clock, and would never end."""

_STREAMS: Final = frozenset({IPPROTO_TCP, IPPROTO_SCTP})
_FLAGS: Final = CT_CLOSING | CT_ANSWERED
_BOTH_FINS: Final = CT_POD_FIN | CT_PEER_FIN
_HAIRPIN, _HAIRPIN6 = pack_ip(HAIRPIN_ADDRESS), pack_ip(HAIRPIN_ADDRESS6)
_V4_MAPPED = _HAIRPIN[:12]
_KEY_SIZE, _VALUE_SIZE = layout("flow").size, layout("conntrack").size
_KIND = columns("flow", "proto", "direction")
_STATE = columns("conntrack", "backend_id", "flags", "last_seen_ns")
_FLAGS_AT: Final = struct.calcsize("=16s2s2sII")  # in a value; all CT_* are in the low byte

Pair = bytes
"""What both halves of a pair know: the client on the wire, the VIP, both ports, the protocol, the backend with
its port, the source port on the wire. A pod that calls itself by another address of its own is not told by it."""


class Met(NamedTuple):
    """An entry as the walk met it."""

    key: bytes
    value: bytes


class Orphans(NamedTuple):
    """Pairs of which only one half is there; `callers` are the addresses of pods that call themselves."""

    forwards: frozenset[Pair] = frozenset()
    reverses: frozenset[Pair] = frozenset()
    callers: Mapping[Pair, bytes] = {}

    def also_in(self, earlier: Orphans) -> Orphans:
        """Those that were orphans before, too."""
        return Orphans(self.forwards & earlier.forwards, self.reverses & earlier.reverses, self.callers)


def idle_limit_ns(protocol: int, flags: int) -> int:
    """For how long a flow (IP protocol, CT_* flags of its reverse entry) may be silent."""
    if protocol not in _STREAMS:
        return DATAGRAM_NS
    if flags & CT_RESET or flags & _BOTH_FINS == _BOTH_FINS:
        return CLOSING_NS
    if flags & _BOTH_FINS:
        return HALF_CLOSED_NS
    return ESTABLISHED_NS if flags & CT_ANSWERED else UNANSWERED_NS


def forward_key(key: bytes, value: bytes) -> bytes:
    """The key of a reverse entry's twin; a pod that calls itself is taken to do so from the address it calls."""
    return keys_of(pair_of_reverse(key, value), {})[0]


def reverse_key(key: bytes, value: bytes) -> bytes:
    """The key of a forward entry's twin."""
    return keys_of(pair_of_forward(key, value), {})[1]


def pair_of_reverse(key: bytes, value: bytes) -> Pair:
    """The pair that a reverse entry is half of."""
    return b"".join((key[16:32], value[:16], value[18:20], value[16:18], key[36:37], key[:16], key[32:36]))


def pair_of_forward(key: bytes, value: bytes) -> Pair:
    """The pair that a forward entry is half of."""
    if not value[_FLAGS_AT] & CT_TO_SELF:
        return key[:37] + value[:20]
    return (_HAIRPIN if key.startswith(_V4_MAPPED) else _HAIRPIN6) + key[16:37] + value[:20]


def keys_of(pair: Pair, callers: Mapping[Pair, bytes]) -> tuple[bytes, bytes]:
    """The keys of both halves, forward first."""
    client, backend = pair[:16], pair[37:53]
    if client in (_HAIRPIN, _HAIRPIN6):
        client = callers.get(pair, backend)
    return client + pair[16:37] + b"\0\0\0", backend + pair[:16] + pair[53:57] + pair[36:37] + b"\1\0\0"


class Walk:
    """One walk of the table: `take` it batch by batch."""

    def __init__(self, now_ns: int) -> None:
        self.entries = 0
        self.flows: Counter[int] = Counter()
        """Flows by backend id."""
        self.expired: list[Met] = []
        """Reverse entries that were silent for too long."""
        self._forwards: set[Pair] = set()
        self._reverses: set[Pair] = set()
        self.callers: dict[Pair, bytes] = {}
        """The addresses of pods that call themselves."""
        self._future = now_ns + FUTURE_NS
        self._oldest = {
            protocol: [now_ns - idle_limit_ns(protocol, flags) for flags in range(_FLAGS + 1)]
            for protocol in (*_STREAMS, 0)
        }

    def take(self, keys: bytes, values: bytes) -> None:
        """Look at packed keys and values."""
        self.entries += len(keys) // _KEY_SIZE
        datagrams = self._oldest[0]
        rows = zip(_KIND.iter_unpack(keys), _STATE.iter_unpack(values), strict=True)
        packed = zip(bpfcall.cut(keys, _KEY_SIZE), bpfcall.cut(values, _VALUE_SIZE), strict=True)
        backends = []
        for ((protocol, direction), (backend_id, flags, seen)), (key, value) in zip(rows, packed, strict=True):
            if direction == CT_FORWARD:
                backends.append(backend_id)
                pair = pair_of_forward(key, value)
                self._forwards.add(pair)
                if flags & CT_TO_SELF:
                    self.callers[pair] = key[:16]
                continue
            self._reverses.add(pair_of_reverse(key, value))
            oldest = self._oldest.get(protocol, datagrams)[flags & _FLAGS]
            if not oldest <= seen <= self._future:
                self.expired.append(Met(key, value))
        self.flows.update(backends)

    def orphans(self) -> Orphans:
        """Entries without their twin; those in the making among them."""
        forwards, reverses = self._forwards - self._reverses, self._reverses - self._forwards
        return Orphans(frozenset(forwards), frozenset(reverses), self.callers)
