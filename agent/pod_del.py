"""DEL: a pod ends. Journal it, take it off the network, answer; the slow half (deleting the link) follows.

A DEL succeeds whenever it can be made to: without the store, without the pod object, without the namespace, for an
attachment nobody knows. Until the link is gone the address stays with the attachment and is given to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Sequence

from agent import pod_wants, threads, uplink_up
from agent.cni_numbers import cni_error
from agent.node import Node
from allocator.attachments import AnyRecord, Attachment, AttachmentKey
from allocator.journal import JournalError
from cni.request import Request
from datapath import unwiring
from datapath.rtsocket import NetlinkError

RETRY_S = (0.1, 1.0, 5.0, 30.0)
"""Waits between tries of the slow half; the last one repeats until it succeeds or the agent ends."""

log = logging.getLogger(__name__)


async def pod_del(node: Node, request: Request) -> bytes:
    """Nothing to print. Raises CniError only when the DEL cannot be journaled: the runtime tries again.

    Once it is journaled it will be carried out, if not at the first try.
    """
    key = pod_wants.key_of(request)
    if key in node.reaping:  # only the tombstone is news: it may be younger than the first DEL's, or the first
        records = node.ledger.detaching(key, request.started_ns).records
        try:
            await threads.run(lambda: node.journal.commit(*records))
        except JournalError as error:
            raise cni_error(error) from error
        return b""
    attachment, records = node.ledger.detaching(key, request.started_ns)
    netns_fd = _netns(attachment, request.netns_fd)
    unwired = True
    try:
        await _quick_half(node, attachment, records, netns_fd)
    except JournalError as error:
        _close(netns_fd)
        raise cni_error(error) from error
    except (NetlinkError, OSError) as error:
        unwired = False
        log.warning("%s: %s; trying again in the background", key, error, extra={"reason": str(error)})
    if attachment is None:
        _close(netns_fd)
    else:
        start_reaping(node, attachment, netns_fd, unwired=unwired)
    return b""


async def _quick_half(node: Node, attachment: Attachment | None, records: Sequence[AnyRecord], netns_fd: int) -> None:
    def job() -> None:
        node.journal.commit(*records)
        if attachment is not None:
            leftover = pod_wants.leftover_of(attachment, node.uplinks.last_known(attachment.uplink))
            unwiring.unwire(leftover, netns_fd, node.kernel)

    await threads.run(job)


def start_reaping(node: Node, attachment: Attachment, netns_fd: int, *, unwired: bool = False) -> None:
    """Finish a detaching attachment in the background, its quick half too unless that is done (`unwired`).

    Takes over the descriptor (-1 = there is no namespace).
    """
    task = asyncio.get_running_loop().create_task(_reap(node, attachment, netns_fd, unwired))
    node.reaping[attachment.key] = task
    task.add_done_callback(lambda _: node.reaping.pop(attachment.key, None))


async def _reap(node: Node, attachment: Attachment, netns_fd: int, unwired: bool) -> None:
    def job() -> None:
        leftover = pod_wants.leftover_of(attachment, node.uplinks.last_known(attachment.uplink))
        if not unwired:
            unwiring.unwire(leftover, netns_fd, node.kernel)
        unwiring.reap(leftover, netns_fd, node.kernel)

    try:
        tries = 0
        while True:
            try:
                await threads.run(job)
                break
            except (NetlinkError, OSError) as error:
                log.warning("%s is not gone yet: %s", attachment.key, error, extra={"reason": str(error)})
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
    finally:
        _close(netns_fd)
    await _note(node, node.ledger.gone(attachment.key, time.monotonic()).records)
    node.publisher.touch(*(lease.pool for lease in attachment.leases))
    await uplink_up.release_idle(node, attachment.uplink)


async def abandon(node: Node, key: AttachmentKey) -> None:
    """An ADD has failed and was undone: nothing of it is left in the kernel, and no tombstone forbids the next one."""
    begun = node.ledger.detaching(key, None).records
    await _note(node, [*begun, *node.ledger.gone(key, time.monotonic()).records])


async def _note(node: Node, records: Sequence[AnyRecord]) -> None:
    """Commit what the kernel shows anyway: if it cannot be noted, a restart finds the attachment and does it again."""

    def job() -> None:
        node.journal.commit(*records)

    try:
        await threads.run(job)
    except JournalError as error:
        log.error("%s", error, extra={"reason": str(error)})


def _netns(attachment: Attachment | None, given: int) -> int:
    """A descriptor of the attachment's namespace that is ours to close, or -1 when it is gone.

    The runtime's own is best; without it the path of the ADD, if the same namespace still lies there.
    """
    if given >= 0:
        return os.dup(given)
    return open_netns(attachment) if attachment is not None else -1


def open_netns(attachment: Attachment) -> int:
    """A new descriptor of the namespace the attachment was made in, or -1 when it is not at its path any more."""
    if not attachment.netns_path:
        return -1
    with contextlib.suppress(OSError):
        found = os.open(attachment.netns_path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(found)
        if (status.st_dev, status.st_ino) == (attachment.netns_dev, attachment.netns_ino):
            return found
        os.close(found)
    return -1


def _close(netns_fd: int) -> None:
    if netns_fd >= 0:
        os.close(netns_fd)
