"""What the agent and the programs both know: the mirror of bpf/lib/abi.h (tests/unit/test_abi.py compares them).

Integers are native (little-endian on every machine we run on) apart from `be` fields, which are bytes in network order.
The dataclasses that go into these layouts are in datapath/entries.py.
"""

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

ABI_VERSION = 2

MAX_PODS = 8192
MAX_ADDRESSES = 131072
MAX_SERVICES = 262144
MAX_BACKENDS = 262144
MAX_CONNTRACK = 131072
MAX_AFFINITY = 65536
MAX_FRAGMENTS = 8192
MAX_FLOW_COUNTERS = 131072
MAX_NETNS = 8192
MAX_SOCKETS = 65536
MAX_COUNTERS = 64
MAX_CALLS = 4

CALL_FROM_POD = 0
CALL_TO_POD = 1
CALL_BACK_TO_POD = 2

HAIRPIN_ADDR4 = 0xA9FECA01
HAIRPIN_ADDR6_FIRST = 0xFD3C7D1A
HAIRPIN_ADDR6_SECOND = 0x9E420000
HAIRPIN_ADDR6_LAST = 0x00000001
HAIRPIN_ADDRESS = socket.inet_ntoa(HAIRPIN_ADDR4.to_bytes(4, "big"))
HAIRPIN_ADDRESS6 = socket.inet_ntop(
    socket.AF_INET6, struct.pack(">IIII", HAIRPIN_ADDR6_FIRST, HAIRPIN_ADDR6_SECOND, 0, HAIRPIN_ADDR6_LAST)
)

POD_OWN_MAC = 0x1
POD_DIRECT_NAT = 0x2

ADDRESS_POD = 0x1
ADDRESS_NODE = 0x2
ADDRESS_FRONTEND = 0x4
ADDRESS_CLUSTER_IP = 0x8
ADDRESS_ENDPOINTS = 0x10
ADDRESS_NODE_PORT = 0x20

BACKEND_DRAINING = 0x1

CT_FORWARD = 0
CT_REVERSE = 1

CT_POD_FIN = 0x1
CT_PEER_FIN = 0x2
CT_RESET = 0x4
CT_CLOSING = 0x7
CT_ANSWERED = 0x8
CT_TO_SELF = 0x10
CT_OWN_MAC = 0x20
CT_ON_LINK = 0x40
CT_BY_GATEWAY = 0x80

SERVICE_NONE = 0
CT_IDLE_NS = 60_000_000_000

REFUSALS_PER_S = 100
REFUSALS_AT_ONCE = 1000

# struct name -> ((field, struct code), ...): be32 is 4s, be16 is 2s, so that byte order is visible in the type; a
# struct ip is 16s.
LAYOUTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "pod": (
        ("mac", "6s"),
        ("flags", "H"),
        ("addr4", "4s"),
        ("mask4", "4s"),
        ("addr6", "16s"),
        ("mask6", "16s"),
        ("gateway4", "4s"),
        ("gateway6", "16s"),
        ("uplink_ifindex", "I"),
    ),
    "address": (("flags", "I"), ("uplink_ifindex", "I"), ("slave_ifindex", "I")),
    "service_key": (("addr", "16s"), ("port", "2s"), ("slot", "H"), ("proto", "B"), ("pad", "3s")),
    "service": (("service_id", "I"), ("backend_id", "I"), ("count", "H"), ("flags", "H"), ("affinity_s", "I")),
    "backend": (("addr", "16s"), ("port", "2s"), ("flags", "H"), ("service_id", "I")),
    "flow": (
        ("saddr", "16s"),
        ("daddr", "16s"),
        ("sport", "2s"),
        ("dport", "2s"),
        ("proto", "B"),
        ("direction", "B"),
        ("pad", "H"),
    ),
    "conntrack": (
        ("addr", "16s"),
        ("port", "2s"),
        ("client_port", "2s"),
        ("service_id", "I"),
        ("backend_id", "I"),
        ("flags", "H"),
        ("touched", "H"),
        ("last_seen_ns", "Q"),
        ("mac", "6s"),
        ("mac_seen", "H"),
    ),
    "affinity_key": (("client", "16s"), ("service_id", "I")),
    "affinity": (("backend_id", "I"), ("pad", "I"), ("last_used_ns", "Q")),
    "fragment_key": (("saddr", "16s"), ("daddr", "16s"), ("id", "4s"), ("proto", "B"), ("pad", "3s")),
    "fragment": (("sport", "2s"), ("dport", "2s")),
    "refusals": (("last_ns", "Q"), ("left", "Q")),
    "flow_counters": (("opened", "Q"), ("refused", "Q")),
    "socket_key": (("cookie", "Q"), ("addr", "16s"), ("port", "2s"), ("proto", "B"), ("pad", "5s")),
    "workspace": (("room", "512s"),),
    "socket_peer": (
        ("addr", "16s"),
        ("port", "2s"),
        ("pad", "H"),
        ("service_id", "I"),
        ("backend_id", "I"),
        ("slave_ifindex", "I"),
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
    VERDICT_ERROR_ANSWER = 14
    VERDICT_ECHO = 15
    VERDICT_SOCKET = 16
    VERDICT_SOCKET_ANSWER = 17
    VERDICT_SERVICE_MAC = 18
    EVENT_STALE_PAIR = 24
    EVENT_NEW_SOURCE_PORT = 25
    EVENT_REFUSED_ICMP = 26
    EVENT_REFUSED_RESET = 27
    EVENT_REFUSAL_LIMITED = 28
    EVENT_FLOW_MOVED = 29
    EVENT_REVERSE_LOST = 30
    EVENT_FRAGMENT_LOST = 31
    DROP_NO_BACKEND = 32
    DROP_BACKEND_MISSING = 33
    DROP_NO_SOURCE_PORT = 34
    DROP_REWRITE = 35
    DROP_NO_ROUTE = 36
    DROP_CONNTRACK = 37
    DROP_FOREIGN_SOURCE = 38
    DROP_FOREIGN_MAC = 39
    DROP_FOREIGN_ARP = 40
    DROP_UNKNOWN_PORT = 41
    DROP_BACKEND_REMOVED = 42
    DROP_NO_FLOW = 43
    DROP_FRAGMENT = 44
    DROP_PROTOCOL = 45
    DROP_MALFORMED = 46
    DROP_FOREIGN_ND = 47
    DROP_FOREIGN_PROTOCOL = 48


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
_IP_SIZE = 16


def _hash(name: str, key_size: int, value_size: int, max_entries: int) -> MapSpec:
    return MapSpec(name, _HASH, key_size, value_size, max_entries, _NO_PREALLOC)


def _lru(name: str, key_size: int, value_size: int, max_entries: int) -> MapSpec:
    return MapSpec(name, _LRU_HASH, key_size, value_size, max_entries)


MAPS: tuple[MapSpec, ...] = (
    _hash("pods", U32.size, layout("pod").size, MAX_PODS),
    _hash("addresses", _IP_SIZE, layout("address").size, MAX_ADDRESSES),
    _hash("services", layout("service_key").size, layout("service").size, MAX_SERVICES),
    _hash("backends", U32.size, layout("backend").size, MAX_BACKENDS),
    _lru("conntrack", layout("flow").size, layout("conntrack").size, MAX_CONNTRACK),
    _lru("affinity", layout("affinity_key").size, layout("affinity").size, MAX_AFFINITY),
    _lru("fragments", layout("fragment_key").size, layout("fragment").size, MAX_FRAGMENTS),
    _lru("refusals", U32.size, layout("refusals").size, MAX_PODS),
    _hash("flow_counters", U32.size, layout("flow_counters").size, MAX_FLOW_COUNTERS),
    _hash("netns_pods", U64.size, U32.size, MAX_NETNS),
    _lru("socket_backends", layout("socket_key").size, layout("socket_peer").size, MAX_SOCKETS),
    _lru("socket_frontends", layout("socket_key").size, layout("socket_peer").size, MAX_SOCKETS),
    MapSpec("counters", _PERCPU_ARRAY, U32.size, U64.size, MAX_COUNTERS),
    MapSpec("workspaces", _PERCPU_ARRAY, U32.size, layout("workspace").size, 1),
    MapSpec("calls", _PROG_ARRAY, U32.size, U32.size, MAX_CALLS),
)
