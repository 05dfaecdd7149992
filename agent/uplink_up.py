"""An uplink comes, or comes back: the node finds its pods on it again.

The kernel drops a link's permanent neighbours and its routes when the link goes down (a restarted network service, a
reset driver), and an uplink that was made anew has another number. What a running pod needs of the node is written
again then; it is also what a restarted agent makes sure of.
"""

from __future__ import annotations

import logging

from agent import pod_wants, threads
from agent.node import Node
from allocator.attachments import AttachmentKey, State
from datapath import node_side
from datapath.netlink import Uplink
from datapath.rtsocket import NetlinkError, run
from datapath.wireplan import PodWiring, node_undo_steps

log = logging.getLogger(__name__)


async def restore_pods(node: Node, uplink: Uplink) -> None:
    """Write what the node needs for the running pods of an uplink; without pods, take it away. What fails is logged."""
    plans: dict[AttachmentKey, PodWiring] = {}
    ended: list[PodWiring] = []

    def restore() -> None:
        with node.kernel.sockets.lease() as channel:
            for plan in plans.values():
                node_side.restore(plan, node.kernel.plan.reach(plan), channel)

    def undo() -> None:
        with node.kernel.sockets.lease() as channel:
            for plan in ended:
                run(channel, node_undo_steps(plan, node.kernel.plan.reach(plan)))

    # No ADD is under way meanwhile: what is ready is wired, and no address is given to somebody else.
    async with node.gate.closed():
        for attachment in node.ledger.attachments(State.READY):
            if attachment.uplink == uplink.name:
                plans[attachment.key] = pod_wants.leftover_of(attachment, uplink)
        try:
            await threads.run(restore)
            ended += [plan for key, plan in plans.items() if node.ledger.state(key) is not State.READY]
            if ended:  # a DEL came in between
                await threads.run(undo)
        except (NetlinkError, OSError) as error:
            log.warning("pods on uplink %s: %s", uplink.name, error, extra={"reason": str(error)})
    await release_idle(node, uplink.name)


async def release_idle(node: Node, name: str) -> None:
    """No pod uses the uplink any more: what the node had of its own on it goes, too. What fails is logged."""
    uplink = node.uplinks.last_known(name)
    if not node.kernel.plan.idle_slaves(uplink) or _in_use(node, name):
        return

    def job() -> None:
        with node.kernel.sockets.lease() as channel:
            node_side.remove_idle(node.kernel.plan, uplink, channel)

    async with node.gate.closed():
        if _in_use(node, name):  # an ADD was faster
            return
        try:
            await threads.run(job)
        except (NetlinkError, OSError) as error:
            log.warning("uplink %s: %s", name, error, extra={"reason": str(error)})


def _in_use(node: Node, name: str) -> bool:
    return any(attachment.uplink == name for attachment in node.ledger.attachments())
