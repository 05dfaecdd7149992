"""How a pod and its node find each other, decided without touching anything: one plan for each kind of datapath.

`EbpfPlan`: programs turn frames round at the uplink and find Services in their maps. `NetlinkPlan` needs neither: the
node has a slave of its own on the uplink, and the pod sends what is for Services to the node, whose kube-proxy acts.

Theory of the netlink plan on ipvlan: a frame with the uplink's own MAC and a sibling's address goes to that sibling,
one with any other address goes to the node's stack. So the node reaches a pod through its own slave, and a pod reaches
the node (and everything that kube-proxy answers for) with "node's address -> own MAC". The node's stack answers by its
slave. On macvlan both have a MAC of their own and know the other's. Neither asks by ARP: an ipvlan slave's question
never reaches the node, and a question (or an answer) of the node's slave would go out to the cloud.

The answer of a backend goes to the address that the request came from. If that were the pod's, ipvlan would hand it to
the pod past the node, where nobody would turn it back into the Service's: kube-proxy must masquerade what pods send.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

from datapath import rtnl, subnets
from datapath.netlink import Uplink
from datapath.wireplan import IPVLAN, PodWiring, Reach, bare_addresses, host_prefix, in_pods_subnets, mac_of

EBPF, NETLINK = "ebpf", "netlink"
NODE_SLAVE_IFINDEX = 0x80000
"""Added to the uplink's number: above what a node's kernel counts up to, below the pods' (0x100000)."""
_SLAVE_MODES = {IPVLAN: "l2", "macvlan": "bridge"}


class Plan(Protocol):
    """One kind of datapath."""

    @property
    def name(self) -> str:
        """ "ebpf" or "netlink"."""
        ...

    @property
    def programs(self) -> bool:
        """Whether pods and uplinks run programs, which know the pods from maps."""
        ...

    def reach(self, wiring: PodWiring) -> Reach:
        """How this pod and its node find each other. Only uplink, kind and addresses decide about the node's side."""
        ...

    def idle_slaves(self, uplink: Uplink) -> tuple[int, ...]:
        """Numbers of the node's own links on an uplink that no pod uses: to be deleted."""
        ...


@dataclass(frozen=True, slots=True)
class EbpfPlan:
    """The program at the uplink turns round what the node sends to an ipvlan pod. A macvlan pod it does not reach."""

    name: str = EBPF
    programs: bool = True

    def reach(self, wiring: PodWiring) -> Reach:
        """The uplink is the node's link to the pod."""
        uplink = wiring.uplink
        if wiring.kind != IPVLAN:
            return Reach(uplink.ifindex, uplink.name, b"", (), (), (), (), loose_rp_filter=False)
        routes = tuple((host_prefix(address), "") for address in _not_in_uplinks_subnets(wiring))
        return Reach(
            node_ifindex=uplink.ifindex,
            node_link=uplink.name,
            node_mac=mac_of(wiring),
            node_routes=routes,
            node_neighbours=bare_addresses(wiring),
            pod_routes=(),
            # Those that the pod would ask for by ARP or ND, which nobody answers (a slave's broadcast does not reach
            # the node's stack); all others go to the gateway's MAC, where the pod's program turns them.
            pod_neighbours=tuple(one for one in wiring.node_addresses if in_pods_subnets(wiring, one)),
            loose_rp_filter=any(":" not in destination for destination, _ in routes),
        )

    def idle_slaves(self, uplink: Uplink) -> tuple[int, ...]:
        """The node has no slaves of its own."""
        del uplink
        return ()


@dataclass(frozen=True, slots=True)
class NetlinkPlan:
    """`service_cidrs`: "a/b" of both families, where the pods' node (its kube-proxy) is the way to."""

    service_cidrs: tuple[str, ...]
    name: str = NETLINK
    programs: bool = False

    def reach(self, wiring: PodWiring) -> Reach:
        """The node's own slave is its link to the pod."""
        slave, addresses = node_slave(wiring.kind, wiring.uplink), bare_addresses(wiring)
        families = {":" in address for address in addresses}
        nodes = tuple(one for one in wiring.node_addresses if (":" in one) in families)
        to_node = [(host_prefix(address), "") for address in nodes]
        by_node = [(subnets.network(cidr), _next_hop(wiring, ":" in cidr)) for cidr in self.service_cidrs]
        return Reach(
            node_ifindex=slave.ifindex,
            node_link=slave.name,
            node_mac=slave.mac or mac_of(wiring),
            node_routes=tuple((host_prefix(address), _own_source(wiring, address)) for address in addresses),
            node_neighbours=addresses,
            pod_routes=(*to_node, *((cidr, gateway) for cidr, gateway in by_node if gateway)),
            pod_neighbours=nodes,
            # What an ipvlan pod sends to the node comes in by the uplink itself.
            loose_rp_filter=wiring.kind == IPVLAN and False in families,
            node_slave=slave,
        )

    def idle_slaves(self, uplink: Uplink) -> tuple[int, ...]:
        """The node's slave: while it is there, the uplink cannot carry the other kind."""
        return (NODE_SLAVE_IFINDEX + uplink.ifindex,) if uplink.ifindex else ()


def node_slave(kind: str, uplink: Uplink) -> rtnl.LinkSpec:
    """The node's own slave on an uplink; of macvlan, with a MAC that is the same for ever."""
    mac = b""
    if kind != IPVLAN:
        digest = bytearray(hashlib.blake2b(f"node/{uplink.mac}/{uplink.name}".encode(), digest_size=6).digest())
        digest[0] = digest[0] & 0xFC | 0x02  # unicast, locally administered
        mac = bytes(digest)
    return rtnl.LinkSpec(
        kind=kind,
        mode=_SLAVE_MODES[kind],
        name=f"dl-{uplink.ifindex}",
        ifindex=NODE_SLAVE_IFINDEX + uplink.ifindex,
        uplink_ifindex=uplink.ifindex,
        mtu=0,
        mac=mac,
    )


def _not_in_uplinks_subnets(wiring: PodWiring) -> tuple[str, ...]:
    own = wiring.uplink.addresses
    return tuple(a for a in bare_addresses(wiring) if not any(subnets.contains(cidr, a) for cidr in own))


def _own_source(wiring: PodWiring, address: str) -> str:
    """The node's address towards a pod's: one of the uplink, if possible in the same subnet; "" when it has none."""
    own = [one for one in wiring.uplink.addresses if (":" in one) == (":" in address)]
    near = [one for one in own if subnets.contains(one, address)]
    return subnets.split((near or own or [""])[0])[0]


def _next_hop(wiring: PodWiring, six: bool) -> str:
    """The node's address by which a pod sends to Services of a family; "" when either has no address of it.

    Which one is of no matter to the node; one of the uplink is the least surprising in a `traceroute`.
    """
    first = next((address for address in bare_addresses(wiring) if (":" in address) == six), "")
    others = [one for one in wiring.node_addresses if (":" in one) == six]
    return first and (_own_source(wiring, first) or (others or [""])[0])
