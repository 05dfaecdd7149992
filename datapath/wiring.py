"""A pod's wiring as one transaction: the slave and everything that belongs to it, or nothing.

`wire` is synchronous and must run in a throw-away thread: it enters the pod's netns and does not come back. Its three
datagrams are: the slave (sent in the node's netns, made in the pod's), the pod's batch, the node's batch. Both sockets
exist before the first step, so that every step can be undone. The map entries come before the link is up: the first
frame of the pod already finds them.
"""

from __future__ import annotations

import errno
from contextlib import ExitStack

from datapath import netns, node_side, rtnl, subnets, sysctl
from datapath.abi import ADDRESS_POD, POD_OWN_MAC
from datapath.entries import PodEntry
from datapath.kernel import Datapath
from datapath.rtsocket import LinkExists, NetlinkError, RouteSocket, Step, run
from datapath.table import Cookie, Number
from datapath.wireplan import (
    HOLD_EGRESS,
    HOLD_INGRESS,
    IPVLAN,
    HolderFds,
    PodAddress,
    PodWiring,
    Wired,
    bare_addresses,
    has_ipv6,
    link_spec,
    link_undo_steps,
    mac_of,
    node_steps,
    node_undo_steps,
    pod_steps,
)

__all__ = ["Datapath", "PodAddress", "PodWiring", "Wired", "pod_entry", "wire"]

_NO_IPV4, _NO_IPV6 = "0.0.0.0/0", "::/0"


def wire(wiring: PodWiring, netns_fd: int, kernel: Datapath) -> Wired:
    """Make the slave in the netns of `netns_fd` and all that belongs to it; on any error nothing of it stays.

    Raises NetnsGone, LinkExists (the foreign link is not touched), AddressInUse, UplinkUnusable, NetlinkError (which
    names the step), OSError (a map or a socket refused).
    """
    spec = link_spec(wiring)
    reach = kernel.plan.reach(wiring)
    inside, outside = pod_steps(wiring, reach, _holders(kernel)), node_steps(wiring, reach)
    with kernel.sockets.lease() as node:
        node_side.make_ready(wiring, reach, node)
        netns.enter(netns_fd)
        with RouteSocket() as pod, ExitStack() as undo:
            _create(node, pod, spec, netns_fd)
            undo.callback(run, pod, link_undo_steps(wiring.ifindex))
            if has_ipv6(wiring):
                sysctl.enable_ipv6(wiring.ifname)
            if reach.pod_routes:
                sysctl.refuse_redirects(wiring.ifname)
            _write_maps(wiring, kernel, undo)
            run(pod, inside)
            # A batch may have been done in part when it fails: its inverse is on the stack before it.
            undo.callback(run, node, node_undo_steps(wiring, reach))
            run(node, outside)
            undo.pop_all()
    return Wired(mac_of(wiring).hex(":"), wiring.mtu or wiring.uplink.mtu)


def pod_entry(wiring: PodWiring) -> PodEntry:
    """The pod's entry in the map `pods`; the programs know one address of a pod and family, the first."""
    four = next((item for item in wiring.addresses if ":" not in item.address), PodAddress(_NO_IPV4, ""))
    six = next((item for item in wiring.addresses if ":" in item.address), PodAddress(_NO_IPV6, ""))
    return PodEntry(
        mac=mac_of(wiring).hex(":"),
        flags=POD_OWN_MAC if wiring.kind == IPVLAN else 0,
        addr4=subnets.split(four.address)[0],
        mask4=subnets.netmask(four.address),
        uplink_ifindex=wiring.uplink.ifindex,
        addr6=subnets.split(six.address)[0],
        mask6=subnets.netmask(six.address),
        gateway4=four.gateway or "0.0.0.0",
        gateway6=six.gateway or "::",
    )


def _holders(kernel: Datapath) -> HolderFds | None:
    if not kernel.plan.programs:
        return None
    return HolderFds(kernel.programs.fd(HOLD_EGRESS), kernel.programs.fd(HOLD_INGRESS))


def _create(node: RouteSocket, pod: RouteSocket, spec: rtnl.LinkSpec, netns_fd: int) -> None:
    try:
        run(node, [Step("create link", rtnl.new_link(spec, netns_fd))])
    except NetlinkError as error:
        raise _create_error(error, pod, spec) from error
    except OSError:
        # The answer was lost, so the link may be there; its number is the agent's own, so only ours can have it.
        run(pod, link_undo_steps(spec.ifindex))
        raise


def _create_error(error: NetlinkError, pod: RouteSocket, spec: rtnl.LinkSpec) -> NetlinkError:
    """What a refused RTM_NEWLINK means; a taken number is EBUSY or EEXIST, depending on the kernel."""
    if error.errno in (errno.EEXIST, errno.EBUSY) and not pod.exchange([rtnl.get_link(spec.ifindex)]):
        text = f"the pod already has a link numbered {spec.ifindex}; it was not touched"
        return LinkExists(error.step, error.errno, text)
    if error.errno == errno.EEXIST:
        return LinkExists(error.step, error.errno, f"the pod already has a link {spec.name}; it was not touched")
    return node_side.refusal(error, spec)


def _write_maps(wiring: PodWiring, kernel: Datapath, undo: ExitStack) -> None:
    undo.callback(kernel.maps.delete_pod, wiring.ifindex)
    kernel.maps.put_pod(wiring.ifindex, pod_entry(wiring))
    cookie = netns.cookie()
    if cookie is not None:
        undo.callback(kernel.maps.forget_netns, wiring.ifindex)
        kernel.maps.netns_pods.add(Cookie(cookie), Number(wiring.ifindex))  # a netns's first slave speaks for it
    for address in bare_addresses(wiring):
        undo.callback(kernel.maps.delete_local, address, wiring.uplink.ifindex)
        kernel.maps.put_local(address, wiring.uplink.ifindex, ADDRESS_POD, wiring.ifindex)
