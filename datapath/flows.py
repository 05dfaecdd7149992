"""What the programs remember of flows and sockets, as it lies in the pinned maps (see datapath/entries.py)."""

from dataclasses import dataclass
from typing import Self

from datapath.abi import layout
from datapath.entries import pack_ip, pack_port, protocol_name, protocol_number, unpack_ip, unpack_port

_FLOW = layout("flow")
_CONNTRACK = layout("conntrack")
_AFFINITY_KEY = layout("affinity_key")
_AFFINITY = layout("affinity")
_FLOW_COUNTERS = layout("flow_counters")
_SOCKET_KEY = layout("socket_key")
_SOCKET_PEER = layout("socket_peer")


@dataclass(frozen=True, slots=True)
class Flow:
    """Key of `conntrack`: forward is the tuple as the pod sends it, reverse the tuple as the answer arrives."""

    source: str
    source_port: int
    destination: str
    destination_port: int
    protocol: str
    direction: int

    def encode(self) -> bytes:
        """Give the bytes of `struct flow`."""
        addresses = pack_ip(self.source), pack_ip(self.destination)
        ports = pack_port(self.source_port), pack_port(self.destination_port)
        return _FLOW.pack(*addresses, *ports, protocol_number(self.protocol), self.direction, 0)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct flow`."""
        saddr, daddr, sport, dport, proto, direction, _ = _FLOW.unpack(raw)
        destination = unpack_ip(daddr), unpack_port(dport)
        return cls(unpack_ip(saddr), unpack_port(sport), *destination, protocol_name(proto), direction)


@dataclass(frozen=True, slots=True)
class Translation:
    """Value of `conntrack`: forward names the backend, reverse the VIP; `client_port` is the other side's source port.

    `last_seen_ns` (CLOCK_MONOTONIC) is kept in the reverse entry only; `flags` are CT_*; `touched` and `mac_seen` are
    the programs' own notes of when they wrote last and when an answer came from `mac`.
    """

    address: str
    port: int
    client_port: int
    service_id: int
    backend_id: int
    last_seen_ns: int = 0
    flags: int = 0
    touched: int = 0
    mac: bytes = bytes(6)
    mac_seen: int = 0

    def encode(self) -> bytes:
        """Give the bytes of `struct conntrack`."""
        ports = pack_port(self.port), pack_port(self.client_port)
        ids = self.service_id, self.backend_id
        noted = self.flags, self.touched, self.last_seen_ns, self.mac, self.mac_seen
        return _CONNTRACK.pack(pack_ip(self.address), *ports, *ids, *noted)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct conntrack`."""
        addr, port, client_port, service_id, backend_id, flags, touched, seen, *mac = _CONNTRACK.unpack(raw)
        ports = unpack_port(port), unpack_port(client_port)
        return cls(unpack_ip(addr), *ports, service_id, backend_id, seen, flags, touched, *mac)


@dataclass(frozen=True, slots=True)
class AffinityKey:
    """Key of `affinity`: the pod's address and the frontend's service_id."""

    client: str
    service_id: int

    def encode(self) -> bytes:
        """Give the bytes of `struct affinity_key`."""
        return _AFFINITY_KEY.pack(pack_ip(self.client), self.service_id)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct affinity_key`."""
        client, service_id = _AFFINITY_KEY.unpack(raw)
        return cls(unpack_ip(client), service_id)


@dataclass(frozen=True, slots=True)
class Affinity:
    """Value of `affinity`: the backend the client had last, and when (CLOCK_MONOTONIC)."""

    backend_id: int
    last_used_ns: int

    def encode(self) -> bytes:
        """Give the bytes of `struct affinity`."""
        return _AFFINITY.pack(self.backend_id, 0, self.last_used_ns)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct affinity`."""
        backend_id, _, used = _AFFINITY.unpack(raw)
        return cls(backend_id, used)


@dataclass(frozen=True, slots=True)
class FlowCounters:
    """Value of `flow_counters` (key: service_id): flows opened and packets refused since the frontend is there."""

    opened: int
    refused: int

    def encode(self) -> bytes:
        """Give the bytes of `struct flow_counters`."""
        return _FLOW_COUNTERS.pack(self.opened, self.refused)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct flow_counters`."""
        return cls(*_FLOW_COUNTERS.unpack(raw))


@dataclass(frozen=True, slots=True)
class SocketKey:
    """Key of `socket_backends` (the VIP, as the pod names it) and `socket_frontends` (the backend, as on the wire)."""

    cookie: int
    address: str
    port: int
    protocol: str

    def encode(self) -> bytes:
        """Give the bytes of `struct socket_key`."""
        proto = protocol_number(self.protocol)
        return _SOCKET_KEY.pack(self.cookie, pack_ip(self.address), pack_port(self.port), proto, b"")

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct socket_key`."""
        cookie, addr, port, proto, _ = _SOCKET_KEY.unpack(raw)
        return cls(cookie, unpack_ip(addr), unpack_port(port), protocol_name(proto))


@dataclass(frozen=True, slots=True)
class SocketPeer:
    """Value of both socket maps: the destination's other name, and the pod (its slave) that has the socket."""

    address: str
    port: int
    service_id: int
    backend_id: int
    slave_ifindex: int

    def encode(self) -> bytes:
        """Give the bytes of `struct socket_peer`."""
        ids = self.service_id, self.backend_id, self.slave_ifindex
        return _SOCKET_PEER.pack(pack_ip(self.address), pack_port(self.port), 0, *ids)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read `struct socket_peer`."""
        addr, port, _, service_id, backend_id, slave = _SOCKET_PEER.unpack(raw)
        return cls(unpack_ip(addr), unpack_port(port), service_id, backend_id, slave)
