"""Making an uplink ready for pods, and keeping the node's own addresses known to the programs."""

from __future__ import annotations

import errno

from datapath import netlink, rtnl
from datapath.abi import ADDRESS_NODE
from datapath.kernel import Datapath
from datapath.netlink import Uplink
from datapath.rtsocket import NetlinkError, Step, UplinkUnusable, run

PROGRAM = "node_to_pod"
# Early (its frames concern nobody else, and it passes all others on), yet with room in front for the node's owner.
PREFERENCE, HANDLE = 42, 0xD1


def prepare_uplink(name: str, kernel: Datapath) -> Uplink:
    """Attach `node_to_pod` to the uplink's clsact egress and write the node's addresses into `addresses`.

    Where the datapath has no programs, the uplink is only looked at.

    Idempotent; an older program of ours is swapped atomically, foreign qdiscs and filters stay as they are. Not on the
    loop's thread (it reads through pyroute2). Raises UplinkUnusable, NetlinkError, OSError.
    """
    uplink = netlink.uplink(name)
    if kernel.plan.programs:
        _add_clsact(uplink, kernel)
        _attach(uplink, kernel)
    write_node_addresses(kernel)
    return uplink


def write_node_addresses(kernel: Datapath) -> tuple[str, ...]:
    """Make the ADDRESS_NODE entries equal to the addresses that the node has now; gives those."""
    wanted = netlink.node_addresses()
    for address in wanted:
        kernel.maps.put_local(address, 0, ADDRESS_NODE, 0)
    for key, entry in list(kernel.maps.locals().items()):
        if entry.kind == ADDRESS_NODE and (key.uplink_ifindex or key.address not in wanted):
            kernel.maps.delete_local(key.address, key.uplink_ifindex)
    return wanted


def _add_clsact(uplink: Uplink, kernel: Datapath) -> None:
    with kernel.sockets.lease() as node:
        step = Step("add clsact", rtnl.new_clsact(uplink.ifindex), frozenset({errno.EEXIST}))
        run(node, [step])
    if "ingress" in netlink.qdiscs(uplink.ifindex):
        text = f'{uplink.name} has the older qdisc "ingress", which has no egress hook: replace it by clsact'
        raise UplinkUnusable(step.name, errno.EEXIST, text)


def _attach(uplink: Uplink, kernel: Datapath) -> None:
    for found in netlink.filters(uplink.ifindex, rtnl.CLSACT_EGRESS):
        if found.preference == PREFERENCE and found.name != PROGRAM:
            text = f"{uplink.name} has a foreign egress filter ({found.kind}) at preference {PREFERENCE}: move it"
            raise NetlinkError(f"attach {PROGRAM}", errno.EEXIST, text)
    spec = rtnl.FilterSpec(uplink.ifindex, rtnl.CLSACT_EGRESS, PREFERENCE, HANDLE, PROGRAM, kernel.programs.fd(PROGRAM))
    with kernel.sockets.lease() as node:
        run(node, [Step(f"attach {PROGRAM}", rtnl.new_bpf_filter(spec, replace=True))])
