"""The door to pyroute2: everything that is read from the kernel, as our facts.

pyroute2 is used where milliseconds do not matter (start, CHECK, restart); the hot path packs its own messages
(`datapath.rtnl`, `datapath.rtsocket`). Its synchronous calls run an event loop of their own: never call these readers
on the agent's loop thread. Each speaks of the network namespace that the calling thread is in.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError as _KernelError

from datapath.rtnl import LINK_MODES
from datapath.rtsocket import AddressInUse, LinkExists, NetlinkError, NetnsGone, Step, UplinkUnusable, run

__all__ = [
    "AddressInUse",
    "Filter",
    "Link",
    "LinkExists",
    "NetlinkError",
    "NetnsGone",
    "Step",
    "Uplink",
    "UplinkUnusable",
    "Way",
    "addresses",
    "filters",
    "link",
    "neighbours",
    "node_addresses",
    "qdiscs",
    "routes",
    "run",
    "slaves",
    "uplink",
    "way_to",
]

# kube-proxy's IPVS mode puts every ClusterIP on this link: thousands, and none of them the node's own.
_NOT_THE_NODES = frozenset({"kube-ipvs0"})
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_NUD_PERMANENT = 0x80
_NUD_VALID = 0xDE
"""As the kernel's: permanent, noarp, reachable, probe, stale, delay."""
_ROUTE_KINDS = {1: "unicast", 2: "local"}
_REFUSALS = {errno.EINVAL: "blackhole", errno.EHOSTUNREACH: "unreachable", errno.EACCES: "prohibit"}
_SCOPE_UNIVERSE, _TABLE_MAIN = 0, 254


@dataclass(frozen=True, slots=True)
class Uplink:
    """A NIC that carries slaves: `mac` "aa:bb:..", `mtu` in bytes, `addresses` the node's own on it, "a/b"."""

    ifindex: int
    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Link:
    """A link as it is: `mode` and `uplink_ifindex` are "" and 0 where its kind has none."""

    ifindex: int
    name: str
    kind: str
    mode: str
    mac: str
    mtu: int
    up: bool
    uplink_ifindex: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A tc filter on clsact; `name` is "" where its kind is not bpf."""

    parent: int
    preference: int
    handle: int
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Way:
    """Where a netns would send a packet.

    `kind` is "unicast", "local", "blackhole", "unreachable", "prohibit" or "none" (no route);
    `gateway` is "" on-link; `mac` is the next hop's, "" while no neighbour entry says it.
    """

    kind: str
    ifindex: int = 0
    gateway: str = ""
    mac: str = ""


def uplink(name: str) -> Uplink:
    """The NIC of that name. Raises UplinkUnusable saying what is wrong with it and what to do."""
    with _reading() as route:
        message = next(iter(route.get_links(ifname=name)), None)
        if message is None:
            raise UplinkUnusable("find uplink", errno.ENODEV, f'this node has no link "{name}": correct "master"')
        found, owner = _link(message), message.get("IFLA_MASTER")
        if message["flags"] & _IFF_LOOPBACK:
            raise UplinkUnusable("find uplink", errno.EINVAL, f"{name} is the loopback link: name a NIC")
        if not found.up:
            raise UplinkUnusable("find uplink", errno.ENETDOWN, f"{name} is down: set it up, or name another link")
        if owner is not None:
            name_of_owner, kind = _owner(route, owner, message)
            text = f'{name} is a port of the {kind} "{name_of_owner}" and cannot carry slaves: name the {kind} itself'
            raise UplinkUnusable("find uplink", errno.EBUSY, text)
        own = tuple(sorted(_address(item) for item in route.get_addr(index=found.ifindex) if _is_global(item)))
        return Uplink(found.ifindex, found.name, found.mac, found.mtu, own)


def node_addresses() -> tuple[str, ...]:
    """Every address of global scope on a link of this netns, without prefix length, sorted."""
    with _reading() as route:
        skipped = {item["index"] for item in route.get_links() if item.get("IFLA_IFNAME") in _NOT_THE_NODES}
        found = {_address(item) for item in route.get_addr() if _is_global(item) and item["index"] not in skipped}
    return tuple(sorted(item.partition("/")[0] for item in found))


def link(ifindex: int) -> Link | None:
    """The link of that number, or None."""
    with _reading() as route:
        try:
            message = next(iter(route.get_links(ifindex)), None)
        except _KernelError as error:
            if error.code != errno.ENODEV:
                raise NetlinkError("read link", error.code) from error
            message = None
        return None if message is None else _link(message)


def slaves() -> tuple[Link, ...]:
    """Every ipvlan or macvlan link of this netns."""
    with _reading() as route:
        return tuple(found for found in map(_link, route.get_links()) if found.kind in LINK_MODES)


def addresses(ifindex: int) -> frozenset[str]:
    """The addresses "a/b" of global scope on a link."""
    with _reading() as route:
        return frozenset(_address(item) for item in route.get_addr(index=ifindex) if _is_global(item))


def routes(ifindex: int) -> frozenset[tuple[str, str]]:
    """(destination "a/b", gateway or "") of the main table's routes by a link."""
    found = set()
    with _reading() as route:
        for family, everything in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for item in route.get_routes(family=family, oif=ifindex, table=_TABLE_MAIN):
                destination = item.get("RTA_DST") or everything
                found.add((f"{destination}/{item['dst_len']}", item.get("RTA_GATEWAY") or ""))
    return frozenset(found)


def neighbours(ifindex: int) -> dict[str, str]:
    """Address -> MAC of a link's permanent neighbours."""
    found = {}
    with _reading() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            for item in route.get_neighbours(family=family, ifindex=ifindex):
                if item["state"] & _NUD_PERMANENT:
                    found[item.get("NDA_DST")] = item.get("NDA_LLADDR")
    return found


def way_to(address: str, source: str) -> Way:
    """The route and the next hop's MAC for a packet from `source`; nothing is sent to find out. Raises NetlinkError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with _reading() as route:
        try:
            message = next(iter(route.route("get", family=family, dst=address, src=source)))
        except _KernelError as error:
            if error.code == errno.ENETUNREACH:
                return Way("none")
            if error.code not in _REFUSALS:
                raise NetlinkError(f"route to {address}", error.code) from error
            return Way(_REFUSALS[error.code])
        ifindex, gateway = message.get("RTA_OIF") or 0, message.get("RTA_GATEWAY") or ""
        mac = ""
        for item in route.get_neighbours(family=family, ifindex=ifindex):
            if item.get("NDA_DST") == (gateway or address) and item["state"] & _NUD_VALID:
                mac = item.get("NDA_LLADDR") or ""
        return Way(_ROUTE_KINDS.get(message["type"], "none"), ifindex, gateway, mac)


def qdiscs(ifindex: int) -> frozenset[str]:
    """The kinds of a link's qdiscs, such as "clsact"."""
    with _reading() as route:
        return frozenset(item.get("TCA_KIND") for item in route.get_qdiscs(index=ifindex))


def filters(ifindex: int, parent: int) -> tuple[Filter, ...]:
    """The filters at a parent of a link's clsact, in the order in which they run."""
    found = []
    with _reading() as route:
        for item in route.get_filters(index=ifindex, parent=parent):
            options = item.get("TCA_OPTIONS")
            if not item["handle"]:  # the kernel dumps one headless entry per preference before its filters
                continue
            kind = item.get("TCA_KIND")
            name = (options.get("TCA_BPF_NAME") or "") if kind == "bpf" else ""
            found.append(Filter(parent, item["info"] >> 16, item["handle"], kind, name))
    return tuple(sorted(found, key=lambda one: (one.preference, one.handle)))


@contextmanager
def _reading() -> Iterator[Any]:
    with IPRoute() as route:
        yield route


def _link(message: Any) -> Link:
    info = message.get("IFLA_LINKINFO")
    kind = (info.get("IFLA_INFO_KIND") or "") if info else ""
    mode = ""
    if kind in LINK_MODES:
        number = info.get("IFLA_INFO_DATA").get(f"IFLA_{kind.upper()}_MODE")
        mode = _mode_name(kind, number)
    return Link(
        ifindex=message["index"],
        name=message.get("IFLA_IFNAME"),
        kind=kind,
        mode=mode,
        mac=message.get("IFLA_ADDRESS") or "",
        mtu=message.get("IFLA_MTU"),
        up=bool(message["flags"] & _IFF_UP),
        uplink_ifindex=message.get("IFLA_LINK") or 0,
    )


def _mode_name(kind: str, number: int | str) -> str:
    """pyroute2 gives macvlan's mode as a word already, ipvlan's as a number."""
    if isinstance(number, str):
        return number
    return next((name for name, value in LINK_MODES[kind][1].items() if value == number), str(number))


def _owner(route: Any, ifindex: int, message: Any) -> tuple[str, str]:
    info = message.get("IFLA_LINKINFO")
    kind = (info.get("IFLA_INFO_SLAVE_KIND") or "") if info else ""
    owner = _link(next(iter(route.get_links(ifindex))))
    return owner.name, kind or owner.kind


def _address(message: Any) -> str:
    return f"{message.get('IFA_LOCAL') or message.get('IFA_ADDRESS')}/{message['prefixlen']}"


def _is_global(message: Any) -> bool:
    return bool(message["scope"] == _SCOPE_UNIVERSE)
