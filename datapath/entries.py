"""Pods, addresses and Services as they lie in the pinned maps: dataclasses; `encode` and `decode` are abi.h's bytes.

Addresses are strings of either family, ports and ids ints. `decode` takes any bytes of the right size: pinned maps are
untrusted input.
"""

import socket
from dataclasses import dataclass
from typing import Self

from datapath.abi import layout

_PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_V4_MAPPED = bytes(10) + b"\xff\xff"

_POD = layout("pod")
_ADDRESS = layout("address")
_SERVICE_KEY = layout("service_key")
_SERVICE = layout("service")
_BACKEND = layout("backend")


def protocol_number(name: str) -> int:
    """Give the IP protocol of a name that `protocol_name` gives: "TCP", "UDP", "SCTP", or a decimal number."""
    return _PROTOCOLS[name] if name in _PROTOCOLS else int(name)


def protocol_name(number: int) -> str:
    """Give "TCP", "UDP", "SCTP", or the number as text (a pinned map is untrusted input)."""
    return _PROTOCOL_NAMES.get(number, str(number))


def pack_ip(address: str) -> bytes:
    """Give the 16 bytes of `struct ip`; OSError when `address` is none."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return _V4_MAPPED + socket.inet_pton(socket.AF_INET, address)


def unpack_ip(raw: bytes) -> str:
    """Read `struct ip`: "a.b.c.d" for a v4-mapped one, else the canonical IPv6 text."""
    if raw.startswith(_V4_MAPPED):
        return socket.inet_ntoa(raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


def pack_port(port: int) -> bytes:
    """Give a port in network order."""
    return port.to_bytes(2, "big")


def unpack_port(raw: bytes) -> int:
    """Read a port in network order."""
    return int.from_bytes(raw, "big")


@dataclass(frozen=True, slots=True)
class PodEntry:
    """Value of `pods` (key: the slave's ifindex): addresses, masks and gateways.

    "0.0.0.0" and "::" stand for none.
    """

    mac: str
    flags: int
    addr4: str
    mask4: str
    uplink_ifindex: int
    addr6: str = "::"
    mask6: str = "::"
    gateway4: str = "0.0.0.0"
    gateway6: str = "::"

    def encode(self) -> bytes:
        """Give the bytes of `struct pod`."""
        mac = bytes.fromhex(self.mac.replace(":", ""))
        addr4, mask4, gateway4 = (socket.inet_aton(text) for text in (self.addr4, self.mask4, self.gateway4))
        six = (self.addr6, self.mask6, self.gateway6)
        addr6, mask6, gateway6 = (socket.inet_pton(socket.AF_INET6, text) for text in six)
        return _POD.pack(mac, self.flags, addr4, mask4, addr6, mask6, gateway4, gateway6, self.uplink_ifindex)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct pod`."""
        mac, flags, addr4, mask4, addr6, mask6, gateway4, gateway6, uplink = _POD.unpack(raw)
        return cls(
            mac=mac.hex(":"),
            flags=flags,
            addr4=socket.inet_ntoa(addr4),
            mask4=socket.inet_ntoa(mask4),
            uplink_ifindex=uplink,
            addr6=socket.inet_ntop(socket.AF_INET6, addr6),
            mask6=socket.inet_ntop(socket.AF_INET6, mask6),
            gateway4=socket.inet_ntoa(gateway4),
            gateway6=socket.inet_ntop(socket.AF_INET6, gateway6),
        )


@dataclass(frozen=True, slots=True)
class LocalKey:
    """An address of this node: a pod's behind one uplink, or (uplink_ifindex 0) the node's own."""

    address: str
    uplink_ifindex: int


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """What a LocalKey is: `kind` ADDRESS_POD with its slave, or ADDRESS_NODE with slave 0."""

    kind: int
    slave_ifindex: int


@dataclass(frozen=True, slots=True)
class Ip:
    """Key of `addresses`."""

    address: str

    def encode(self) -> bytes:
        """Give the bytes of `struct ip`; OSError when `address` is not an address."""
        return pack_ip(self.address)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct ip`."""
        return cls(unpack_ip(raw))


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """Value of `addresses`: ADDRESS_* flags; uplink and slave only with ADDRESS_POD, else 0."""

    flags: int
    uplink_ifindex: int = 0
    slave_ifindex: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct address`."""
        return _ADDRESS.pack(self.flags, self.uplink_ifindex, self.slave_ifindex)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct address`."""
        return cls(*_ADDRESS.unpack(raw))


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """Key of `services`: frontend and slot (0 = the service itself, 1..count = its backends).

    The address of a NodePort is "0.0.0.0" or "::".
    """

    address: str
    port: int
    protocol: str
    slot: int

    def encode(self) -> bytes:
        """Give the bytes of `struct service_key`."""
        proto = protocol_number(self.protocol)
        return _SERVICE_KEY.pack(pack_ip(self.address), pack_port(self.port), self.slot, proto, b"")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct service_key`."""
        addr, port, slot, proto, _ = _SERVICE_KEY.unpack(raw)
        return cls(unpack_ip(addr), unpack_port(port), protocol_name(proto), slot)


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """Value of `services`: slot 0 uses service_id (from 1), count, flags, affinity_s (seconds); others backend_id."""

    service_id: int = 0
    backend_id: int = 0
    count: int = 0
    flags: int = 0
    affinity_s: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct service`."""
        return _SERVICE.pack(self.service_id, self.backend_id, self.count, self.flags, self.affinity_s)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct service`."""
        return cls(*_SERVICE.unpack(raw))


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """Value of `backends` (key: the backend's id, from 1): it belongs to the frontend that has `service_id`."""

    address: str
    port: int
    service_id: int = 0
    flags: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct backend`."""
        return _BACKEND.pack(pack_ip(self.address), pack_port(self.port), self.flags, self.service_id)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct backend`."""
        addr, port, flags, service_id = _BACKEND.unpack(raw)
        return cls(unpack_ip(addr), unpack_port(port), service_id, flags)
