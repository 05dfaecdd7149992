"""What happens before the socket opens: the journal's word is made true in the kernel.

journal -> the uplinks, with what the node needs to find its running pods -> undo what was half done -> adopt the pinned
maps (untrusted) -> carry out the DELs that the shim spooled. The socket opens last: a shim that can connect meets an
agent that can answer.
"""

from __future__ import annotations

import logging
import os
from functools import partial

from agent import pod_wants, threads
from agent.node import Node
from agent.pod_del import open_netns, pod_del, start_reaping
from agent.socket_lb import restore_netns_pods
from allocator.attachments import Attachment
from cni import spool
from cni.errors import CniError
from cni.request import parse
from datapath import wiring
from datapath.abi import ADDRESS_POD
from datapath.rtsocket import NetlinkError

log = logging.getLogger(__name__)


async def recover(node: Node) -> None:
    """Make kernel and journal agree. Raises JournalError when an undo cannot be noted."""
    half_done = node.ledger.half_done()
    for attachment in half_done:
        records = node.ledger.detaching(attachment.key, None).records
        await threads.run(partial(node.journal.commit, *records))
    # Before the reaping: without the uplink's number the node's neighbours and routes would be left behind.
    for name in sorted({attachment.uplink for attachment in node.ledger.attachments()}):
        try:
            await node.uplinks.get(name)
        except (NetlinkError, OSError) as error:
            log.warning("uplink %s of running pods: %s", name, error)
    to_reap = node.ledger.to_reap()
    for attachment in to_reap:
        start_reaping(node, attachment, open_netns(attachment))
    live = [a for a in node.ledger.attachments() if a.key not in node.reaping]
    await threads.run(lambda: _restore_maps(node, live))
    await threads.run(lambda: restore_netns_pods(node.kernel, live))
    if live or to_reap:
        log.info("journal replayed: %d attached, %d being undone", len(live), len(to_reap))


def _restore_maps(node: Node, live: list[Attachment]) -> None:
    """The pods' map entries are those of the live attachments: missing ones are written, foreign ones removed."""
    maps = node.kernel.maps
    wanted: dict[tuple[str, int], int] = {}
    unsure: set[int] = set()
    for attachment in live:
        leftover = pod_wants.leftover_of(attachment, node.uplinks.last_known(attachment.uplink))
        if not leftover.uplink.ifindex:
            unsure.add(attachment.ifindex)
            continue
        maps.put_pod(attachment.ifindex, wiring.pod_entry(leftover))
        for lease in attachment.leases:
            wanted[lease.ip, leftover.uplink.ifindex] = attachment.ifindex
            maps.put_local(lease.ip, leftover.uplink.ifindex, ADDRESS_POD, attachment.ifindex)
    known = {attachment.ifindex for attachment in live}
    for ifindex in list(maps.pods()):
        if ifindex not in known:
            maps.delete_pod(ifindex)
    for key, entry in list(maps.locals().items()):
        stale = wanted.get((key.address, key.uplink_ifindex)) != entry.slave_ifindex
        if entry.kind == ADDRESS_POD and stale and entry.slave_ifindex not in unsure:
            maps.delete_local(key.address, key.uplink_ifindex)


async def drain_spool(node: Node) -> None:
    """Carry out the DELs that found no agent; those that cannot be noted stay for the next time."""
    for spooled in spool.pending(node.config.spool):
        netns_fd = _open(spooled.frame.netns)
        try:
            request = parse(spooled.frame, netns_fd)
        except CniError as error:
            spool.set_aside(spooled.path, error)
            _close(netns_fd)
            continue
        try:
            await pod_del(node, request)
        except CniError as error:
            log.warning(
                "spooled DEL %s: %s", spooled.path.name, error, extra={"container_id": spooled.frame.container_id}
            )
            continue
        finally:
            _close(netns_fd)
        spool.done(spooled.path)
        log.info("spooled DEL done", extra={"container_id": spooled.frame.container_id, "ifname": spooled.frame.ifname})


def _open(netns: str) -> int:
    """A descriptor of the namespace at that path, or -1 when there is none any more."""
    try:
        return os.open(netns, os.O_RDONLY | os.O_CLOEXEC) if netns else -1
    except OSError:
        return -1


def _close(netns_fd: int) -> None:
    if netns_fd >= 0:
        os.close(netns_fd)
