"""The article's VPC as data: subnets, nodes, NICs, and which addresses the cloud assigned to which NIC. Pure."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Assigned = Mapping[tuple[str, str], tuple[str, ...]]
"""(node, NIC) -> addresses and "a-b" ranges assigned to it besides its primary addresses."""


@dataclass(frozen=True, slots=True)
class Subnet:
    """One L2 segment of the VPC with its router; `gateways` are the router's addresses on it, with prefix lengths."""

    name: str
    gateways: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Nic:
    """A node's NIC: the subnet it is plugged into and its primary addresses with prefix lengths."""

    name: str
    subnet: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node: its NICs, and the gateways its default routes go to (by the first NIC)."""

    name: str
    nics: tuple[Nic, ...]
    gateways: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """The switch's end of a NIC: what may come in by it (source MAC, and single addresses, ranges or prefixes)."""

    name: str
    mac: str
    addresses: tuple[str, ...]


SUBNETS = (
    # 10.50.0.0/24 is a second address range of the same segment: no node has an address in it.
    Subnet("172", ("172.31.207.253/20", "fd00:172::253/64")),
    Subnet("192", ("192.168.0.253/24", "10.50.0.253/24", "fd00:192::253/64")),
)
NODES = (
    NodeSpec(
        "master",
        (
            Nic("eth0", "172", ("172.31.199.183/20", "fd00:172::183/64")),
            Nic("eth1", "192", ("192.168.0.154/24", "fd00:192::154/64")),
        ),
        ("172.31.207.253", "fd00:172::253"),
    ),
    NodeSpec(
        "worker",
        (
            Nic("eth0", "172", ("172.31.199.184/20", "fd00:172::184/64")),
            Nic("eth1", "192", ("192.168.0.155/24", "fd00:192::155/64")),
        ),
        ("172.31.207.253", "fd00:172::253"),
    ),
)


def mac_of(node: str, nic: str) -> str:
    """A locally administered unicast MAC that is the same in every run."""
    digest = hashlib.sha256(f"{node}/{nic}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))


def assigned_addresses(objects: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], tuple[str, ...]]:
    """What the cloud's console would show as secondary addresses: the ranges of each SpiderIPPool go to the NIC that is
    the master of its multusName's SpiderMultusConfig, on each node of its nodeName. Raises KeyError for a multusName
    without a SpiderMultusConfig."""
    objects = list(objects)
    masters: dict[str, str] = {}
    for item in objects:
        if item["kind"] == "SpiderMultusConfig":
            spec, meta = item["spec"], item["metadata"]
            masters[f"{meta['namespace']}/{meta['name']}"] = spec[spec["cniType"]]["master"][0]
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for item in objects:
        if item["kind"] != "SpiderIPPool":
            continue
        spec = item["spec"]
        for node in spec.get("nodeName", ()):
            for network in spec.get("multusName", ()):
                key = (node, masters[network])
                found[key] = found.get(key, ()) + tuple(spec["ips"])
    return found


def ports(node: NodeSpec, assigned: Assigned) -> list[tuple[Nic, Port]]:
    """Each NIC of a node with what the switch lets in from it."""
    found = []
    for nic in node.nics:
        own = tuple(address.split("/")[0] for address in nic.addresses)
        port = Port(
            f"{node.name}-{nic.name}", mac_of(node.name, nic.name), own + tuple(assigned.get((node.name, nic.name), ()))
        )
        found.append((nic, port))
    return found


def anti_spoofing(switch_ports: Iterable[Port]) -> str:
    """The nftables ruleset (netdev family: sees a frame before the bridge does) of a switch that drops what was not
    assigned: a foreign source MAC (Ethernet or ARP sender), a foreign source address (IPv4, ARP sender, IPv6), and
    any other protocol. Counters per port: passed_, foreign_mac_, foreign_address_.

    Let through besides the assigned: ARP probes (sender 0.0.0.0), IPv6 link-local sources and :: (ND, DAD).
    """
    lines = ["table netdev cloud {"]
    for port in switch_ports:
        label = port.name.replace("-", "_")
        v4 = ", ".join(a for a in port.addresses if ":" not in a)
        v6 = ", ".join(["fe80::/10", "::", *(a for a in port.addresses if ":" in a)])
        lines += [
            *(f"  counter {kind}_{label} {{ }}" for kind in ("passed", "foreign_mac", "foreign_address")),
            f"  chain from_{label} {{",
            f'    type filter hook ingress device "{port.name}" priority 0; policy drop;',
            f"    ether saddr != {port.mac} counter name foreign_mac_{label} drop",
            f"    meta protocol arp arp saddr ether != {port.mac} counter name foreign_mac_{label} drop",
            f"    arp saddr ip {{ 0.0.0.0, {v4} }} counter name passed_{label} accept",
            f"    ip saddr {{ {v4} }} counter name passed_{label} accept",
            f"    ip6 saddr {{ {v6} }} counter name passed_{label} accept",
            f"    counter name foreign_address_{label} drop",
            "  }",
        ]
    return "\n".join([*lines, "}", ""])
