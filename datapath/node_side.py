"""The node's side of its pods' reach, in the node's netns: switches, the node's own slave, neighbours and routes.

What belongs to the uplink (switches, slave) is made when a pod needs it and is not undone with the pod.
"""

from __future__ import annotations

import errno

from datapath import rtnl, sysctl
from datapath.netlink import Uplink
from datapath.plans import Plan
from datapath.rtsocket import NetlinkError, RouteSocket, Step, UplinkUnusable, run
from datapath.wireplan import IPVLAN, PodWiring, Reach, has_ipv6, node_steps

_MOST_IFINDEX = 0x80000  # from there on, the number of a slave would be a pod's
_IS_THERE = frozenset({errno.EEXIST})
_NO_LINK = frozenset({errno.ENODEV})


def make_ready(wiring: PodWiring, reach: Reach, node: RouteSocket) -> None:
    """What the uplink must have before the pod can be reached by it. Idempotent; the thread is in the node's netns.

    Raises UplinkUnusable, NetlinkError, OSError.
    """
    if reach.loose_rp_filter:
        sysctl.loosen_rp_filter(wiring.uplink.name)
    if reach.node_slave is not None:
        _make_slave(reach.node_slave, node)
        if has_ipv6(wiring):
            sysctl.enable_ipv6(reach.node_slave.name)


def restore(wiring: PodWiring, reach: Reach, node: RouteSocket) -> None:
    """Everything that the node needs to reach a pod that runs. Raises as `make_ready`."""
    make_ready(wiring, reach, node)
    run(node, node_steps(wiring, reach))


def remove_idle(plan: Plan, uplink: Uplink, node: RouteSocket) -> None:
    """Delete the node's own slave on an uplink that carries no pod any more. Raises NetlinkError, OSError."""
    run(node, [Step("delete node's slave", rtnl.delete_link(number), _NO_LINK) for number in plan.idle_slaves(uplink)])


def _make_slave(spec: rtnl.LinkSpec, node: RouteSocket) -> None:
    """Make the slave where it is not yet; another agent's half-made one is completed."""
    if spec.uplink_ifindex >= _MOST_IFINDEX:
        text = f"the uplink's number {spec.uplink_ifindex} leaves none for the node's slave: reboot the node"
        raise UplinkUnusable("create node's slave", 0, text)
    try:
        run(node, [Step("create node's slave", rtnl.new_link(spec, None), _IS_THERE)])
    except NetlinkError as error:
        raise refusal(error, spec) from error
    sysctl.keep_ipv6_quiet(spec.name)
    run(node, [Step("set node's slave up", rtnl.link_up(spec.ifindex, noarp=True))])


def refusal(error: NetlinkError, spec: rtnl.LinkSpec) -> NetlinkError:
    """What it means that the kernel refused to make a slave of an uplink, the node's or a pod's."""
    if error.errno == errno.EBUSY:
        other = "macvlan" if spec.kind == IPVLAN else IPVLAN
        text = (
            f"the uplink cannot carry {spec.kind}: it carries {other} links already, or is a port of a bridge or bond "
            f"({spec.kind} and {other} cannot share an uplink); delete those or use another uplink"
        )
        return UplinkUnusable(error.step, error.errno, text)
    if error.errno == errno.ENODEV:
        return UplinkUnusable(error.step, error.errno, f"the uplink (ifindex {spec.uplink_ifindex}) is gone")
    if error.errno == errno.EOPNOTSUPP:
        return NetlinkError(error.step, error.errno, f"this kernel has no {spec.kind}: load the module {spec.kind}")
    return error
