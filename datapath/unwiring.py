"""The end of a pod's wiring, in two halves, both idempotent and both content without the netns.

`unwire` is quick: when it returns, the address can be given to another pod and no packet finds this one. `reap` deletes
the link, which waits for RCU grace periods (15 ms and more), and may run after the reply. Both enter the pod's netns:
run them in a throw-away thread.
"""

from __future__ import annotations

from contextlib import ExitStack

from datapath import netns
from datapath.kernel import Datapath
from datapath.rtsocket import NetnsGone, RouteSocket, Step, run
from datapath.wireplan import PodWiring, bare_addresses, link_undo_steps, node_undo_steps, pod_quiet_steps


def unwire(wiring: PodWiring, netns_fd: int | None, kernel: Datapath) -> None:
    """Remove the map entries, the node's neighbours and routes, and the slave's addresses; the link stays.

    `netns_fd` None or -1, or no netns any more: the pod's part is skipped. Where `wiring.uplink.ifindex` is 0 (the
    uplink is gone, so its neighbours and routes are too) the map entries are found by the slave's number. All parts are
    tried even if one fails. Raises NetlinkError or OSError, the last one.
    """
    with kernel.sockets.lease() as node, ExitStack() as parts:  # a stack runs its callbacks last in, first out
        parts.callback(_inside, netns_fd, pod_quiet_steps(wiring))
        parts.callback(run, node, node_undo_steps(wiring, kernel.plan.reach(wiring)))
        for address, uplink_ifindex in _locals_of(wiring, kernel):
            parts.callback(kernel.maps.delete_local, address, uplink_ifindex)
        parts.callback(kernel.maps.delete_pod, wiring.ifindex)
        parts.callback(kernel.maps.forget_netns, wiring.ifindex)


def reap(wiring: PodWiring, netns_fd: int | None, kernel: Datapath) -> None:
    """Delete the link and the pod's conntrack entries. Raises NetlinkError or OSError."""
    with ExitStack() as parts:
        parts.callback(kernel.maps.forget, set(bare_addresses(wiring)))
        parts.callback(_inside, netns_fd, link_undo_steps(wiring.ifindex))


def _locals_of(wiring: PodWiring, kernel: Datapath) -> list[tuple[str, int]]:
    if wiring.uplink.ifindex:
        return [(address, wiring.uplink.ifindex) for address in bare_addresses(wiring)]
    own = kernel.maps.locals().items()
    return [(key.address, key.uplink_ifindex) for key, value in own if value.slave_ifindex == wiring.ifindex]


def _inside(netns_fd: int | None, steps: list[Step]) -> None:
    """Run the steps in the pod's netns, if there is one."""
    if netns_fd is None:
        return
    try:
        netns.enter(netns_fd)
    except NetnsGone:
        return
    with RouteSocket() as pod:
        run(pod, steps)
