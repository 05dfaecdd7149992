"""The VPC: two nodes and two routers as network namespaces, wired by veth pairs, with a cloud's anti-spoofing.

Each subnet is a router namespace: a bridge `vpc` with the gateway's addresses connects the nodes' NICs at L2, and an
nftables netdev chain on every port drops (and counts) frames whose source MAC or address the cloud did not assign.
"""

import ipaddress
import json
import os
import secrets
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from tests.testbed import netns
from tests.testbed.topology import NODES, SUBNETS, Assigned, NodeSpec, Subnet, anti_spoofing, mac_of, ports

_TRANSIT = ("169.254.100.{}/24", "fd00:99::{}/64")


@dataclass(frozen=True, slots=True)
class PortCounters:
    """Frames that came in by one port of the switch since the start."""

    passed: int
    foreign_mac: int
    foreign_address: int

    @property
    def dropped(self) -> int:
        """All frames that the cloud refused."""
        return self.foreign_mac + self.foreign_address


class Vpc:
    """The VPC as a context manager; leaving it removes every namespace and every process in them.

    assigned: (node, NIC) -> secondary addresses; filtered: False gives a network without anti-spoofing (a LAN).
    """

    def __init__(
        self,
        assigned: Assigned,
        *,
        filtered: bool = True,
        nodes: Sequence[NodeSpec] = NODES,
        subnets: Sequence[Subnet] = SUBNETS,
    ) -> None:
        self.prefix = f"dl{secrets.token_hex(2)}"
        self.nodes = {node.name: node for node in nodes}
        self.subnets = {subnet.name: subnet for subnet in subnets}
        self._assigned = assigned
        self._filtered = filtered
        self._pods: list[str] = []

    def node_netns(self, node: str) -> str:
        """The namespace name of a node."""
        return f"{self.prefix}-{node}"

    def router_netns(self, subnet: str) -> str:
        """The namespace name of a subnet's router."""
        return f"{self.prefix}-r{subnet}"

    def __enter__(self) -> "Vpc":
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything of this VPC; may be called twice."""
        netns.remove([*self._pods, *map(self.node_netns, self.nodes), *map(self.router_netns, self.subnets)])

    def add_pod_netns(self, label: str) -> str:
        """Make the sandbox of a pod (lo up, as a runtime does) and return its name."""
        name = f"{self.prefix}-{label}"
        self._pods.append(name)
        netns.ip_batch([f"netns add {name}"])
        netns.ip_batch(["link set lo up"], name)
        return name

    def remove_pod_netns(self, name: str) -> None:
        """Remove a sandbox with the processes in it; gone already is fine."""
        netns.remove([name])

    def counters(self) -> dict[tuple[str, str], PortCounters]:
        """(node, NIC) -> its port's counters; empty for an unfiltered VPC."""
        values: dict[str, int] = {}
        if self._filtered:
            for subnet in self.subnets:
                text = netns.run(netns.nsenter(self.router_netns(subnet), ["nft", "-j", "list", "counters"]))
                for item in json.loads(text)["nftables"]:
                    if "counter" in item:
                        values[item["counter"]["name"]] = item["counter"]["packets"]
        found = {}
        for node in self.nodes.values() if values else ():
            for nic, port in ports(node, self._assigned):
                label = port.name.replace("-", "_")
                kinds = ("passed", "foreign_mac", "foreign_address")
                found[node.name, nic.name] = PortCounters(*(values[f"{kind}_{label}"] for kind in kinds))
        return found

    def dropped(self) -> int:
        """All frames the cloud refused so far."""
        return sum(counter.dropped for counter in self.counters().values())

    def send_spoofed(self, node: str, nic: str, *, foreign_mac: bool, foreign_address: bool) -> None:
        """Send one UDP frame from a node's NIC to its gateway's subnet with a source the cloud did not assign."""
        spec = next(item for item in self.nodes[node].nics if item.name == nic)
        own = ipaddress.IPv4Interface(next(a for a in spec.addresses if ":" not in a))
        source = own.network.network_address + 77 if foreign_address else own.ip
        mac = "02:66:6f:72:67:65" if foreign_mac else mac_of(node, nic)
        frame = bytes.fromhex("ffffffffffff" + mac.replace(":", "") + "0800") + _empty_udp(source, own.network[-2])

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((nic, 0))
                raw.send(frame)

        netns.enter(self.node_netns(node), send)

    def _build(self) -> None:
        names = [*map(self.node_netns, self.nodes), *map(self.router_netns, self.subnets)]
        netns.ip_batch(f"netns add {name}" for name in names)
        netns.ip_batch([*self._wires(), *self._transit_wires()])
        for index, subnet in enumerate(self.subnets.values()):
            self._build_router(subnet, index)
        for node in self.nodes.values():
            self._build_node(node)

    def _wires(self) -> list[str]:
        lines = []
        for node in self.nodes.values():
            for nic, port in ports(node, self._assigned):
                lines.append(
                    f"link add {nic.name} netns {self.node_netns(node.name)} address {port.mac} type veth"
                    f" peer name {port.name} netns {self.router_netns(nic.subnet)}"
                )
        return lines

    def _transit_wires(self) -> list[str]:
        first, second = map(self.router_netns, self.subnets)
        return [f"link add transit netns {first} type veth peer name transit netns {second}"]

    def _build_router(self, subnet: Subnet, index: int) -> None:
        name = self.router_netns(subnet.name)
        netns.write_sysctls(name, {**_ROUTER_SYSCTLS})
        plugged = [
            port
            for node in self.nodes.values()
            for nic, port in ports(node, self._assigned)
            if nic.subnet == subnet.name
        ]
        lines = ["link set lo up", "link add name vpc type bridge forward_delay 0 mcast_snooping 0", "link set vpc up"]
        lines += [f"address add {gateway}{_nodad(gateway)} dev vpc" for gateway in subnet.gateways]
        lines += [f"link set {port.name} master vpc up" for port in plugged]
        lines += [f"address add {(own := transit.format(index + 1))}{_nodad(own)} dev transit" for transit in _TRANSIT]
        lines += ["link set transit up"]
        other = next(item for item in self.subnets.values() if item is not subnet)
        for gateway in other.gateways:
            via = _TRANSIT[":" in gateway].format(2 - index).split("/")[0]
            lines.append(f"route add {ipaddress.ip_interface(gateway).network} via {via} dev transit")
        netns.ip_batch(lines, name)
        if self._filtered:
            netns.run(netns.nsenter(name, ["nft", "-f", "-"]), stdin=anti_spoofing(plugged))

    def _build_node(self, node: NodeSpec) -> None:
        name = self.node_netns(node.name)
        netns.write_sysctls(name, _NODE_SYSCTLS)
        lines = ["link set lo up"]
        for nic in node.nics:
            lines += [f"address add {address}{_nodad(address)} dev {nic.name}" for address in nic.addresses]
            lines += [f"link set {nic.name} up"]
        lines += [f"route add default via {gateway} dev {node.nics[0].name}" for gateway in node.gateways]
        netns.ip_batch(lines, name)


_ROUTER_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # A VPC router says nothing about better first hops.
    "ipv4/conf/all/send_redirects": "0",
    "ipv4/conf/default/send_redirects": "0",
}
_NODE_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/eth0/rp_filter": "1",
    "ipv4/conf/eth1/rp_filter": "1",
}


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""


def _empty_udp(source: ipaddress.IPv4Address, target: ipaddress.IPv4Address) -> bytes:
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, source.packed, target.packed)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return header[:10] + struct.pack("!H", checksum) + header[12:] + struct.pack("!HHHH", 9, 9, 8, 0)


def mount_bpffs() -> None:
    """Mount bpffs at /sys/fs/bpf unless it is there, as systemd does on a real node."""
    if not os.path.ismount("/sys/fs/bpf"):
        netns.run(["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])
