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


@dataclass(frozen=True, slots=True)
class Reach:
    """How a pod and its node find each other, as the kind of datapath wants it (`datapath.plans`).

    The node sends to the pod by its link number `node_ifindex`, called `node_link`: over `node_routes` "a/b" (with the
    node's own address for each, "" = the kernel chooses) and the permanent neighbours `node_neighbours`. The pod has
    `pod_routes` besides those it was given, and the permanent neighbours `pod_neighbours`, all with the MAC `node_mac`.
    `node_slave`: the link is a slave of the node's own. `loose_rp_filter`: the node hears the pod on another link than
    it answers by.
    """

    node_ifindex: int
    node_link: str
    node_mac: bytes
    node_routes: tuple[tuple[str, str], ...]
    node_neighbours: tuple[str, ...]
    pod_routes: tuple[tuple[str, str], ...]
    pod_neighbours: tuple[str, ...]
    loose_rp_filter: bool
    node_slave: rtnl.LinkSpec | None = None


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


def pod_steps(wiring: PodWiring, reach: Reach, holders: HolderFds | None) -> list[Step]:
    """The batch inside the pod's netns, after the slave was created.

    The programs (if there are any) come before `up`, so that no frame passes without them; routes and neighbours need
    the link up.
    """
    index = wiring.ifindex
    steps = [Step("set loopback up", rtnl.link_up(_LOOPBACK_IFINDEX))]
    if holders is not None:
        steps += _holder_steps(index, holders)
    for item in wiring.addresses:
        message = rtnl.new_address(index, *subnets.split(item.address))
        steps.append(Step(f"add address {item.address}", message, named=_HELD_BY_A_SIBLING))
    steps.append(Step("set link up", rtnl.link_up(index)))
    for destination, gateway in all_routes(wiring, reach):
        message = rtnl.new_route(index, destination, gateway, onlink=_off_link(wiring, gateway))
        steps.append(Step(f"add route {destination}", message))
    for address in reach.pod_neighbours:
        steps.append(Step(f"add neighbour {address}", rtnl.new_neighbour(index, address, reach.node_mac)))
    return steps


def _holder_steps(index: int, holders: HolderFds) -> list[Step]:
    egress = rtnl.FilterSpec(index, rtnl.CLSACT_EGRESS, FILTER_PREFERENCE, FILTER_HANDLE, HOLD_EGRESS, holders.egress)
    ingress = rtnl.FilterSpec(
        index, rtnl.CLSACT_INGRESS, FILTER_PREFERENCE, FILTER_HANDLE, HOLD_INGRESS, holders.ingress
    )
    return [
        Step("add clsact", rtnl.new_clsact(index)),
        Step("attach egress program", rtnl.new_bpf_filter(egress)),
        Step("attach ingress program", rtnl.new_bpf_filter(ingress)),
    ]


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


def node_steps(wiring: PodWiring, reach: Reach) -> list[Step]:
    """The batch in the node's netns: how the node reaches the pod."""
    index, mac, steps = reach.node_ifindex, mac_of(wiring), []
    for address in reach.node_neighbours:
        steps.append(Step(f"add node's neighbour {address}", rtnl.new_neighbour(index, address, mac)))
    for destination, source in reach.node_routes:
        message = rtnl.new_route(index, destination, "", replace=True, source=source)
        steps.append(Step(f"add node's route {destination}", message))
    return steps


def node_undo_steps(wiring: PodWiring, reach: Reach) -> list[Step]:
    """The inverse of `node_steps`; asks for every route, since the uplink's addresses may have changed meanwhile."""
    if not wiring.uplink.ifindex:
        return []
    index, steps = reach.node_ifindex, []
    for address in reach.node_neighbours:
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


def routes_of(wiring: PodWiring) -> tuple[tuple[str, str], ...]:
    """(destination, gateway) of every route in the pod: on-link ones first, since others may go through them."""
    found = {subnets.network(destination): gateway for destination, gateway in wiring.routes}
    if wiring.default_route:
        for item in wiring.addresses:
            if item.gateway:
                found.setdefault(_EVERYTHING[6 if ":" in item.gateway else 4], item.gateway)
    return tuple(sorted(found.items(), key=lambda route: bool(route[1])))


def all_routes(wiring: PodWiring, reach: Reach) -> tuple[tuple[str, str], ...]:
    """`routes_of` and what the pod needs to reach its node; where both speak of one destination, the former counts."""
    found = dict(reach.pod_routes) | dict(routes_of(wiring))
    return tuple(sorted(found.items(), key=lambda route: bool(route[1])))


def host_prefix(address: str) -> str:
    """ "10.0.0.1" -> "10.0.0.1/32", "fd00::1" -> "fd00::1/128"."""
    return f"{address}/{128 if ':' in address else 32}"


def _off_link(wiring: PodWiring, gateway: str) -> bool:
    """Whether a gateway lies outside the pod's subnets, so that the route must say "onlink"."""
    if not gateway or subnets.contains(subnets.IPV6_LINK_LOCAL, gateway):
        return False
    return not in_pods_subnets(wiring, gateway)


def in_pods_subnets(wiring: PodWiring, address: str) -> bool:
    """Whether the pod would ask for the address by ARP or ND."""
    return any(subnets.contains(item.address, address) for item in wiring.addresses)
