"""What a pod's wiring consists of, decided without touching anything: facts in, named rtnetlink steps out.

Used by all three hands, so that wiring, unwiring and CHECK cannot disagree: `datapath.wiring`, `datapath.unwiring`,
`datapath.wirecheck`.
"""

from __future__ import annotations

import errno
import hashlib
from dataclasses import dataclass

from datapath import rtnl, subnets
from datapath.netlink import Uplink
from datapath.rtsocket import AddressInUse, NetlinkError, Step

IPVLAN = "ipvlan"
FILTER_PREFERENCE, FILTER_HANDLE = 1, 1
HOLD_EGRESS, HOLD_INGRESS = "hold_egress", "hold_ingress"
_LOOPBACK_IFINDEX = 1  # of every network namespace
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_HELD_BY_A_SIBLING = {errno.EADDRINUSE: AddressInUse}
_NO_LINK = frozenset({errno.ENODEV})
_NO_ADDRESS = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL})
_NO_NEIGHBOUR = frozenset({errno.ENODEV, errno.ENOENT})
_NO_ROUTE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH})


@dataclass(frozen=True, slots=True)
class PodAddress:
    """An address of the pod, "a/b", and its gateway, "a" or ""."""

    address: str
    gateway: str


@dataclass(frozen=True, slots=True)
class PodWiring:
    """One attachment as it shall be.

    `kind` "ipvlan" (`mode` "l2") or "macvlan" (`mode` "bridge"); `mtu` 0 = the uplink's; `ifindex` unique on the node
    and from 0x100000 up; `routes` (destination "a/b", gateway or ""); `node_addresses` without prefix length.
    """

    kind: str
    mode: str
    mtu: int
    uplink: Uplink
    ifname: str
    ifindex: int
    addresses: tuple[PodAddress, ...]
    routes: tuple[tuple[str, str], ...]
    default_route: bool
    node_addresses: tuple[str, ...]
    container_id: str


@dataclass(frozen=True, slots=True)
class Wired:
    """What the runtime is told: the slave's MAC "aa:bb:.." and MTU in bytes."""

    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class HolderFds:
    """Descriptors of the two programs that are attached in the pod."""

    egress: int
    ingress: int


def mac_of(wiring: PodWiring) -> bytes:
    """The slave's MAC: the uplink's for ipvlan; for macvlan 46 bits of a digest of the attachment's key.

    Choosing it here spares a look-up after the link is made, and gives a re-wired pod the MAC it had.
    """
    if wiring.kind == IPVLAN:
        return bytes.fromhex(wiring.uplink.mac.replace(":", ""))
    key = f"{wiring.container_id}/{wiring.ifname}".encode()
    digest = bytearray(hashlib.blake2b(key, digest_size=6).digest())
    digest[0] = digest[0] & 0xFC | 0x02  # unicast, locally administered
    return bytes(digest)


def link_spec(wiring: PodWiring) -> rtnl.LinkSpec:
    """The slave to create. Raises NetlinkError where its MTU is above the uplink's (the kernel would not say so)."""
    if wiring.mtu > wiring.uplink.mtu:
        text = f"mtu {wiring.mtu} is above the {wiring.uplink.mtu} of the uplink {wiring.uplink.name}: lower it"
        raise NetlinkError("set mtu", errno.EINVAL, text)
    return rtnl.LinkSpec(
        kind=wiring.kind,
        mode=wiring.mode,
        name=wiring.ifname,
        ifindex=wiring.ifindex,
        uplink_ifindex=wiring.uplink.ifindex,
        mtu=wiring.mtu,
        mac=b"" if wiring.kind == IPVLAN else mac_of(wiring),
    )


def pod_steps(wiring: PodWiring, holders: HolderFds) -> list[Step]:
    """The batch inside the pod's netns, after the slave was created.

    The programs come before `up`, so that no frame passes without them; routes and neighbours need the link up.
    """
    index = wiring.ifindex
    egress = rtnl.FilterSpec(index, rtnl.CLSACT_EGRESS, FILTER_PREFERENCE, FILTER_HANDLE, HOLD_EGRESS, holders.egress)
    ingress = rtnl.FilterSpec(
        index, rtnl.CLSACT_INGRESS, FILTER_PREFERENCE, FILTER_HANDLE, HOLD_INGRESS, holders.ingress
    )
    steps = [
        Step("set loopback up", rtnl.link_up(_LOOPBACK_IFINDEX)),
        Step("add clsact", rtnl.new_clsact(index)),
        Step("attach egress program", rtnl.new_bpf_filter(egress)),
        Step("attach ingress program", rtnl.new_bpf_filter(ingress)),
    ]
    for item in wiring.addresses:
        message = rtnl.new_address(index, *subnets.split(item.address))
        steps.append(Step(f"add address {item.address}", message, named=_HELD_BY_A_SIBLING))
    steps.append(Step("set link up", rtnl.link_up(index)))
    for destination, gateway in routes_of(wiring):
        message = rtnl.new_route(index, destination, gateway, onlink=_off_link(wiring, gateway))
        steps.append(Step(f"add route {destination}", message))
    mac = mac_of(wiring)
    for address in node_neighbours(wiring):
        steps.append(Step(f"add neighbour {address}", rtnl.new_neighbour(index, address, mac)))
    return steps


def pod_quiet_steps(wiring: PodWiring) -> list[Step]:
    """The quick half of the end inside the pod: no address, hence nothing in ipvlan's table of the uplink."""
    steps = []
    for item in wiring.addresses:
        message = rtnl.delete_address(wiring.ifindex, *subnets.split(item.address))
        steps.append(Step(f"delete address {item.address}", message, _NO_ADDRESS))
    return steps


def link_undo_steps(ifindex: int) -> list[Step]:
    """Delete a slave; its addresses, routes, neighbours, qdisc and filters go with it."""
    return [Step("delete link", rtnl.delete_link(ifindex), _NO_LINK)]


def node_steps(wiring: PodWiring) -> list[Step]:
    """The batch in the node's netns: how the node reaches an ipvlan pod (a macvlan pod it cannot reach at all)."""
    if wiring.kind != IPVLAN:
        return []
    index, mac, steps = wiring.uplink.ifindex, mac_of(wiring), []
    for address in bare_addresses(wiring):
        steps.append(Step(f"add node's neighbour {address}", rtnl.new_neighbour(index, address, mac)))
    for destination in node_routes(wiring):
        steps.append(Step(f"add node's route {destination}", rtnl.new_route(index, destination, "", replace=True)))
    return steps


def node_undo_steps(wiring: PodWiring) -> list[Step]:
    """The inverse of `node_steps`; asks for every route, since the uplink's addresses may have changed meanwhile."""
    if wiring.kind != IPVLAN or not wiring.uplink.ifindex:
        return []
    index, steps = wiring.uplink.ifindex, []
    for address in bare_addresses(wiring):
        route = rtnl.delete_route(index, host_prefix(address))
        steps.append(Step(f"delete node's route {address}", route, _NO_ROUTE))
        neighbour = rtnl.delete_neighbour(index, address)
        steps.append(Step(f"delete node's neighbour {address}", neighbour, _NO_NEIGHBOUR))
    return steps


def bare_addresses(wiring: PodWiring) -> tuple[str, ...]:
    """The pod's addresses without prefix length."""
    return tuple(subnets.split(item.address)[0] for item in wiring.addresses)


def has_ipv6(wiring: PodWiring) -> bool:
    """Whether any address of the pod is IPv6."""
    return any(":" in item.address for item in wiring.addresses)


def needs_loose_rp_filter(wiring: PodWiring) -> bool:
    """Whether the node hears an IPv4 pod on an uplink that has no address in the pod's subnet."""
    return any(":" not in destination for destination in node_routes(wiring))


def routes_of(wiring: PodWiring) -> tuple[tuple[str, str], ...]:
    """(destination, gateway) of every route in the pod: on-link ones first, since others may go through them."""
    found = {subnets.network(destination): gateway for destination, gateway in wiring.routes}
    if wiring.default_route:
        for item in wiring.addresses:
            if item.gateway:
                found.setdefault(_EVERYTHING[6 if ":" in item.gateway else 4], item.gateway)
    return tuple(sorted(found.items(), key=lambda route: bool(route[1])))


def node_neighbours(wiring: PodWiring) -> tuple[str, ...]:
    """The node's addresses that an ipvlan pod would ask for by ARP or ND: those in its own subnets.

    Nobody answers it (a slave's broadcast does not reach the node's stack); all others go to the gateway's MAC, where
    the pod's program turns them.
    """
    if wiring.kind != IPVLAN:
        return ()
    return tuple(one for one in wiring.node_addresses if _in_pods_subnets(wiring, one))


def node_routes(wiring: PodWiring) -> tuple[str, ...]:
    """The pod's addresses, as /32 or /128, that no address of the node on the uplink has in its subnet (ipvlan)."""
    if wiring.kind != IPVLAN:
        return ()
    own = wiring.uplink.addresses
    return tuple(
        host_prefix(address)
        for address in bare_addresses(wiring)
        if not any(subnets.contains(cidr, address) for cidr in own)
    )


def host_prefix(address: str) -> str:
    """ "10.0.0.1" -> "10.0.0.1/32", "fd00::1" -> "fd00::1/128"."""
    return f"{address}/{128 if ':' in address else 32}"


def _off_link(wiring: PodWiring, gateway: str) -> bool:
    """Whether a gateway lies outside the pod's subnets, so that the route must say "onlink"."""
    if not gateway or subnets.contains(subnets.IPV6_LINK_LOCAL, gateway):
        return False
    return not _in_pods_subnets(wiring, gateway)


def _in_pods_subnets(wiring: PodWiring, address: str) -> bool:
    return any(subnets.contains(item.address, address) for item in wiring.addresses)
