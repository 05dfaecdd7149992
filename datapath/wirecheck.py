"""CNI CHECK: in what a pod's wiring differs from what it shall be. Foreign additions are not our business."""

from __future__ import annotations

from collections.abc import Iterator

from datapath import netlink, netns, rtnl
from datapath.abi import ADDRESS_POD, POD_OWN_MAC
from datapath.entries import LocalEntry, LocalKey
from datapath.kernel import Datapath
from datapath.rtsocket import NetnsGone
from datapath.wireplan import (
    FILTER_HANDLE,
    FILTER_PREFERENCE,
    HOLD_EGRESS,
    HOLD_INGRESS,
    PodWiring,
    Reach,
    all_routes,
    bare_addresses,
    mac_of,
)
from datapath.wiring import pod_entry


def check(wiring: PodWiring, netns_fd: int, kernel: Datapath) -> list[str]:
    """Every difference as a sentence; [] = as it shall be. Run it in a throw-away thread: it enters the pod's netns.

    Raises NetlinkError where reading fails; a netns that is gone is a difference.
    """
    reach, programs = kernel.plan.reach(wiring), kernel.plan.programs
    found = [*(_maps(wiring, kernel) if programs else ()), *_node(wiring, reach)]
    try:
        netns.enter(netns_fd)
    except NetnsGone as error:
        return [*found, str(error)]
    return [*found, *_link(wiring), *_inside(wiring, reach), *(_programs(wiring) if programs else ())]


def _maps(wiring: PodWiring, kernel: Datapath) -> Iterator[str]:
    entry, wanted = kernel.maps.pods().get(wiring.ifindex), pod_entry(wiring)
    if entry is None:
        yield f"map pods has no entry for ifindex {wiring.ifindex}"
    elif (entry.mac, entry.flags & POD_OWN_MAC) != (wanted.mac, wanted.flags) or _where(entry) != _where(wanted):
        yield f"map pods has {entry} for ifindex {wiring.ifindex}, not {wanted}"
    known = kernel.maps.locals()
    for address in bare_addresses(wiring):
        if known.get(LocalKey(address, wiring.uplink.ifindex)) != LocalEntry(ADDRESS_POD, wiring.ifindex):
            yield f"map addresses does not lead {address} to ifindex {wiring.ifindex}"


def _where(entry: object) -> tuple[object, ...]:
    return tuple(getattr(entry, name) for name in ("addr4", "mask4", "uplink_ifindex"))


def _node(wiring: PodWiring, reach: Reach) -> Iterator[str]:
    if reach.node_slave is not None:
        yield from _node_slave(reach.node_slave)
    known, mac = netlink.neighbours(reach.node_ifindex), mac_of(wiring).hex(":")
    for address in reach.node_neighbours:
        if known.get(address) != mac:
            yield f"the node's permanent neighbour {address} on {reach.node_link} is {known.get(address)}, not {mac}"
    routes = netlink.routes(reach.node_ifindex)
    for destination, _ in reach.node_routes:
        if (destination, "") not in routes:
            yield f"the node has no route to {destination} by {reach.node_link}"


def _node_slave(wanted: rtnl.LinkSpec) -> Iterator[str]:
    found = netlink.link(wanted.ifindex)
    if found is None:
        yield f"the node has no link {wanted.name}"
    elif (found.kind, found.uplink_ifindex, found.up) != (wanted.kind, wanted.uplink_ifindex, True):
        yield f"the node's link {wanted.name} is {found}, not an {wanted.kind} slave of its uplink that is up"
    elif wanted.mac and found.mac != wanted.mac.hex(":"):
        yield f"the node's link {wanted.name} has the MAC {found.mac}, not {wanted.mac.hex(':')}"


def _link(wiring: PodWiring) -> Iterator[str]:
    link = netlink.link(wiring.ifindex)
    if link is None:
        yield f"the pod has no link numbered {wiring.ifindex}"
        return
    wanted = {
        "name": wiring.ifname,
        "kind": wiring.kind,
        "mode": wiring.mode,
        "mac": mac_of(wiring).hex(":"),
        "mtu": wiring.mtu or wiring.uplink.mtu,
        "up": True,
        "uplink_ifindex": wiring.uplink.ifindex,
    }
    for field, value in wanted.items():
        if getattr(link, field) != value:
            yield f"link {wiring.ifname}: {field} is {getattr(link, field)!r}, not {value!r}"


def _inside(wiring: PodWiring, reach: Reach) -> Iterator[str]:
    addresses = netlink.addresses(wiring.ifindex)
    for item in wiring.addresses:
        if item.address not in addresses:
            yield f"link {wiring.ifname} has no address {item.address}"
    routes = netlink.routes(wiring.ifindex)
    for destination, gateway in all_routes(wiring, reach):
        if (destination, gateway) not in routes:
            yield f"the pod has no route {destination}" + (f" via {gateway}" if gateway else "")
    known, mac = netlink.neighbours(wiring.ifindex), reach.node_mac.hex(":")
    for address in reach.pod_neighbours:
        if known.get(address) != mac:
            yield f"the pod's permanent neighbour {address} is {known.get(address)}, not {mac}"


def _programs(wiring: PodWiring) -> Iterator[str]:
    """By name, not by number: a holder of an earlier version calls through the same slots."""
    for parent, name in ((rtnl.CLSACT_EGRESS, HOLD_EGRESS), (rtnl.CLSACT_INGRESS, HOLD_INGRESS)):
        place = (FILTER_PREFERENCE, FILTER_HANDLE, name)
        found = netlink.filters(wiring.ifindex, parent)
        if place not in {(item.preference, item.handle, item.name) for item in found}:
            yield f"link {wiring.ifname} does not run the program {name}"
