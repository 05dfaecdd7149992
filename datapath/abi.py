"""What the agent and the programs both know: the mirror of bpf/lib/abi.h (tests/unit/test_abi.py compares them).

Integers are native (little-endian on every machine we run on) apart from `be` fields, which are bytes in network order.
The dataclasses that go into these layouts are in datapath/entries.py.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

ABI_VERSION = 1

MAX_PODS = 8192
MAX_LOCAL_ADDRESSES = 32768
MAX_SERVICES4 = 65536
MAX_BACKENDS4 = 65536
MAX_CONNTRACK4 = 131072
MAX_COUNTERS = 64
MAX_CALLS = 4

CALL_FROM_POD = 0
CALL_TO_POD = 1

HAIRPIN_ADDR4 = 0xA9FECA01
HAIRPIN_ADDRESS = socket.inet_ntoa(HAIRPIN_ADDR4.to_bytes(4, "big"))

POD_OWN_MAC = 0x1
POD_DIRECT_NAT = 0x2

LOCAL_POD = 1
LOCAL_NODE = 2

CT_FORWARD = 0
CT_REVERSE = 1

CT_POD_FIN = 0x1
CT_PEER_FIN = 0x2
CT_RESET = 0x4
CT_CLOSING = 0x7

SERVICE_NONE = 0
CT_IDLE_NS = 60_000_000_000

# struct name -> ((field, struct code), ...): be32 is 4s, be16 is 2s, so that byte order is visible in the type.
LAYOUTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "pod": (("mac", "6s"), ("flags", "H"), ("addr4", "4s"), ("mask4", "4s"), ("uplink_ifindex", "I")),
    "local_key": (("addr", "16s"), ("uplink_ifindex", "I")),
    "local_address": (("kind", "I"), ("slave_ifindex", "I")),
    "service4_key": (("addr", "4s"), ("port", "2s"), ("slot", "H"), ("proto", "B"), ("pad", "3s")),
    "service4": (("service_id", "I"), ("backend_id", "I"), ("count", "H"), ("flags", "H"), ("affinity_s", "I")),
    "backend4": (("addr", "4s"), ("port", "2s"), ("pad", "H")),
    "flow4": (
        ("saddr", "4s"),
        ("daddr", "4s"),
        ("sport", "2s"),
        ("dport", "2s"),
        ("proto", "B"),
        ("direction", "B"),
        ("pad", "H"),
    ),
    "conntrack4": (
        ("addr", "4s"),
        ("port", "2s"),
        ("client_port", "2s"),
        ("service_id", "I"),
        ("backend_id", "I"),
        ("last_seen_ns", "Q"),
        ("flags", "I"),
        ("pad", "I"),
    ),
}


def layout(name: str) -> struct.Struct:
    """Give the packer of a struct of abi.h: native integers, no implicit padding. KeyError when there is none."""
    return struct.Struct("=" + "".join(code for _, code in LAYOUTS[name]))


U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")


class Verdict(IntEnum):
    """Index into `counters`; bpf/lib/abi.h says what each means. Append only, never renumbered."""

    VERDICT_PASS = 0
    VERDICT_FOREIGN_SOURCE = 1
    VERDICT_DIRECT = 2
    VERDICT_DIRECT_OWN_MAC = 3
    VERDICT_SERVICE_OWN_MAC = 4
    VERDICT_SERVICE_GATEWAY = 5
    VERDICT_SERVICE_FIB = 6
    VERDICT_SERVICE_NEIGH = 7
    VERDICT_HAIRPIN = 8
    VERDICT_HAIRPIN_ANSWER = 9
    VERDICT_ANSWER = 10
    VERDICT_NODE_TO_POD = 11
    VERDICT_SECOND_PASS = 12
    VERDICT_DIRECT_NAT = 13
    EVENT_STALE_PAIR = 24
    EVENT_NEW_SOURCE_PORT = 25
    DROP_NO_BACKEND = 32
    DROP_BACKEND_MISSING = 33
    DROP_NO_SOURCE_PORT = 34
    DROP_REWRITE = 35
    DROP_NO_ROUTE = 36
    DROP_CONNTRACK = 37


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One pinned map: `kind` is the kernel's bpf_map_type number, sizes in bytes, `flags` as in bpf(BPF_MAP_CREATE)."""

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


_HASH, _PROG_ARRAY, _PERCPU_ARRAY, _LRU_HASH = 1, 3, 6, 9
# Sparse tables take memory as they fill. An LRU map cannot (the kernel refuses the flag).
_NO_PREALLOC = 1

MAPS: tuple[MapSpec, ...] = (
    MapSpec("pods", _HASH, U32.size, layout("pod").size, MAX_PODS, _NO_PREALLOC),
    MapSpec(
        "local_addresses",
        _HASH,
        layout("local_key").size,
        layout("local_address").size,
        MAX_LOCAL_ADDRESSES,
        _NO_PREALLOC,
    ),
    MapSpec("services4", _HASH, layout("service4_key").size, layout("service4").size, MAX_SERVICES4, _NO_PREALLOC),
    MapSpec("backends4", _HASH, U32.size, layout("backend4").size, MAX_BACKENDS4, _NO_PREALLOC),
    MapSpec("conntrack4", _LRU_HASH, layout("flow4").size, layout("conntrack4").size, MAX_CONNTRACK4),
    MapSpec("counters", _PERCPU_ARRAY, U32.size, U64.size, MAX_COUNTERS),
    MapSpec("calls", _PROG_ARRAY, U32.size, U32.size, MAX_CALLS),
)
