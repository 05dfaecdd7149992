"""Keys and values of the pinned maps as dataclasses; `encode` and `decode` give and take the exact bytes of abi.h.

Addresses are strings, ports and ids ints. `decode` takes any bytes of the right size: pinned maps are untrusted input.
"""

import socket
from dataclasses import dataclass
from typing import Self

from datapath.abi import layout

_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_V4_MAPPED = bytes(10) + b"\xff\xff"

_POD = layout("pod")
_LOCAL_KEY = layout("local_key")
_LOCAL_ADDRESS = layout("local_address")
_SERVICE_KEY = layout("service4_key")
_SERVICE = layout("service4")
_BACKEND = layout("backend4")
_FLOW = layout("flow4")
_CONNTRACK = layout("conntrack4")


def protocol_number(name: str) -> int:
    """Give the IP protocol of "TCP" or "UDP", or of the decimal number that `protocol_name` gives for others."""
    return _PROTOCOLS[name] if name in _PROTOCOLS else int(name)


def protocol_name(number: int) -> str:
    """Give "TCP", "UDP", or the number as text (a pinned map is untrusted input)."""
    return _PROTOCOL_NAMES.get(number, str(number))


def _port(port: int) -> bytes:
    return port.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class PodEntry:
    """Value of `pods` (key: the slave's ifindex). `addr4` and `mask4` are dotted quads, "0.0.0.0" without IPv4."""

    mac: str
    flags: int
    addr4: str
    mask4: str
    uplink_ifindex: int

    def encode(self) -> bytes:
        """Give the bytes of `struct pod`."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        return _POD.pack(
            mac, self.flags, socket.inet_aton(self.addr4), socket.inet_aton(self.mask4), self.uplink_ifindex
        )

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct pod`."""
        mac, flags, addr4, mask4, uplink = _POD.unpack(raw)
        return cls(mac.hex(":"), flags, socket.inet_ntoa(addr4), socket.inet_ntoa(mask4), uplink)


@dataclass(frozen=True, slots=True)
class LocalKey:
    """Key of `local_addresses`: an IPv4 or IPv6 address on one uplink (0 for the node's own addresses)."""

    address: str
    uplink_ifindex: int

    def encode(self) -> bytes:
        """Give the bytes of `struct local_key`; OSError when `address` is not an address."""
        if ":" in self.address:
            raw = socket.inet_pton(socket.AF_INET6, self.address)
        else:
            raw = _V4_MAPPED + socket.inet_pton(socket.AF_INET, self.address)
        return _LOCAL_KEY.pack(raw, self.uplink_ifindex)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct local_key`."""
        packed, uplink = _LOCAL_KEY.unpack(raw)
        if packed.startswith(_V4_MAPPED):
            return cls(socket.inet_ntoa(packed[12:]), uplink)
        return cls(socket.inet_ntop(socket.AF_INET6, packed), uplink)


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """Value of `local_addresses`: LOCAL_POD with its slave, or LOCAL_NODE with slave 0."""

    kind: int
    slave_ifindex: int

    def encode(self) -> bytes:
        """Give the bytes of `struct local_address`."""
        return _LOCAL_ADDRESS.pack(self.kind, self.slave_ifindex)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct local_address`."""
        return cls(*_LOCAL_ADDRESS.unpack(raw))


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """Key of `services4`: frontend and slot (0 = the service itself, 1..count = its backends)."""

    address: str
    port: int
    protocol: str
    slot: int

    def encode(self) -> bytes:
        """Give the bytes of `struct service4_key`."""
        proto = protocol_number(self.protocol)
        return _SERVICE_KEY.pack(socket.inet_aton(self.address), _port(self.port), self.slot, proto, b"")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct service4_key`."""
        addr, port, slot, proto, _ = _SERVICE_KEY.unpack(raw)
        return cls(socket.inet_ntoa(addr), int.from_bytes(port, "big"), protocol_name(proto), slot)


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """Value of `services4`: slot 0 uses service_id (from 1), count, flags, affinity_s (seconds); others backend_id."""

    service_id: int = 0
    backend_id: int = 0
    count: int = 0
    flags: int = 0
    affinity_s: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct service4`."""
        return _SERVICE.pack(self.service_id, self.backend_id, self.count, self.flags, self.affinity_s)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct service4`."""
        return cls(*_SERVICE.unpack(raw))


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """Value of `backends4` (key: the backend's id, from 1)."""

    address: str
    port: int

    def encode(self) -> bytes:
        """Give the bytes of `struct backend4`."""
        return _BACKEND.pack(socket.inet_aton(self.address), _port(self.port), 0)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct backend4`."""
        addr, port, _ = _BACKEND.unpack(raw)
        return cls(socket.inet_ntoa(addr), int.from_bytes(port, "big"))


@dataclass(frozen=True, slots=True)
class Flow:
    """Key of `conntrack4`: forward is the tuple as the pod sends it, reverse the tuple as the answer arrives."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str
    direction: int

    def encode(self) -> bytes:
        """Give the bytes of `struct flow4`."""
        return _FLOW.pack(
            socket.inet_aton(self.source),
            socket.inet_aton(self.destination),
            _port(self.source_port),
            _port(self.destination_port),
            protocol_number(self.protocol),
            self.direction,
            0,
        )

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct flow4`."""
        saddr, daddr, sport, dport, proto, direction, _ = _FLOW.unpack(raw)
        return cls(
            socket.inet_ntoa(saddr),
            int.from_bytes(sport, "big"),
            socket.inet_ntoa(daddr),
            int.from_bytes(dport, "big"),
            protocol_name(proto),
            direction,
        )


@dataclass(frozen=True, slots=True)
class Translation:
    """Value of `conntrack4`: forward names the backend, reverse the VIP; `client_port` is the other side's source port.

    `last_seen_ns` (CLOCK_MONOTONIC) and `flags` (CT_*) are kept in the reverse entry only.
    """

    address: str
    port: int
    client_port: int
    service_id: int
    backend_id: int
    last_seen_ns: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct conntrack4`."""
        ports = (_port(self.port), _port(self.client_port))
        ids = (self.service_id, self.backend_id)
        return _CONNTRACK.pack(socket.inet_aton(self.address), *ports, *ids, self.last_seen_ns, self.flags, 0)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct conntrack4`."""
        addr, port, client_port, service_id, backend_id, seen, flags, _ = _CONNTRACK.unpack(raw)
        ports = (int.from_bytes(port, "big"), int.from_bytes(client_port, "big"))
        return cls(socket.inet_ntoa(addr), *ports, service_id, backend_id, seen, flags)
