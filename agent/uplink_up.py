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
from datapath.netlink import Uplink
from datapath.rtsocket import NetlinkError, run
from datapath.wireplan import PodWiring, node_steps, node_undo_steps

log = logging.getLogger(__name__)


async def restore_pods(node: Node, uplink: Uplink) -> None:
    """Write the node's neighbours and routes of the running pods of an uplink. What fails is logged."""
    plans: dict[AttachmentKey, PodWiring] = {}
    ended: list[PodWiring] = []

    def restore() -> None:
        with node.kernel.sockets.lease() as channel:
            for plan in plans.values():
                run(channel, node_steps(plan))

    def undo() -> None:
        with node.kernel.sockets.lease() as channel:
            for plan in ended:
                run(channel, node_undo_steps(plan))

    # No ADD is under way meanwhile: what is ready is wired, and no address is given to somebody else.
    async with node.gate.closed():
        for attachment in node.ledger.attachments(State.READY):
            if attachment.uplink == uplink.name:
                plans[attachment.key] = pod_wants.leftover_of(attachment, uplink)
        if not plans:
            return
        try:
            await threads.run(restore)
            ended += [plan for key, plan in plans.items() if node.ledger.state(key) is not State.READY]
            if ended:  # a DEL came in between
                await threads.run(undo)
        except (NetlinkError, OSError) as error:
            log.warning("pods on uplink %s: %s", uplink.name, error, extra={"reason": str(error)})
