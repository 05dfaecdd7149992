"""Socket load balancing: whether it is on, whose sockets are balanced, and what becomes of those whose backend is gone.

A backend that is gone takes its sockets along: a connected socket is bound to it for good, so it is closed (TCP and
UDP; UDP already when the backend drains, as datagrams have no end to wait for). Unconnected UDP sockets move by
themselves with their next datagram. Where anything of this is off or fails, packets are balanced in tc.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent import threads
from agent.config import Config
from agent.node import Node
from agent.pod_del import open_netns
from allocator.attachments import Attachment
from datapath import cgroup, loader, netns
from datapath.entries import pack_ip
from datapath.flows import SocketKey
from datapath.kernel import Datapath, ProgramFds
from datapath.loader import ProgramSpec
from datapath.programmed import GoneBackend
from datapath.rtsocket import NetlinkError
from datapath.sockdiag import DiagSocket
from datapath.table import Cookie, Number

PROTOCOLS = ("TCP", "UDP")
DRAINING = "draining"
PAUSE_S = 0.1
"""Finding sockets walks all that are noted (50 ms when the map is full): not more often than this."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SocketLb:
    """`cgroup` is where the programs are (to be) attached; None: off, and `why` says for what reason."""

    cgroup: Path | None
    why: str = ""

    @property
    def programs(self) -> Sequence[ProgramSpec]:
        """What to load."""
        return loader.TC_PROGRAMS if self.cgroup is None else loader.PROGRAMS

    def __str__(self) -> str:
        return f"off: {self.why}" if self.cgroup is None else f"on, at {self.cgroup}"


def wanted(config: Config) -> SocketLb:
    """Whether to balance sockets, as far as the flags and the node decide it."""
    if config.socket_lb == "off":
        return SocketLb(None, "--socket-lb=off")
    try:
        return SocketLb(cgroup.check())
    except cgroup.SocketLbUnavailable as error:
        return SocketLb(None, str(error))


def switch(choice: SocketLb, programs: ProgramFds, bpf_root: Path) -> SocketLb:
    """Attach the programs, or see to it that none is attached; what it has come to. Raises OSError from a detach."""
    if choice.cgroup is not None:
        try:
            cgroup.attach(programs, choice.cgroup, bpf_root)
        except cgroup.SocketLbUnavailable as error:
            choice = SocketLb(None, str(error))
    else:
        cgroup.detach(bpf_root)
    log.info("socket load balancing is %s", choice)
    return choice


def restore_netns_pods(kernel: Datapath, live: Iterable[Attachment]) -> None:
    """Make `netns_pods` name every live attachment's netns and no other. In a throw-away thread: enters them all.

    A netns with several slaves keeps the one that speaks for it.
    """
    known = {cookie.number: slave.number for cookie, slave in kernel.maps.netns_pods.items()}
    slaves: dict[int, list[int]] = defaultdict(list)
    for attachment in live:
        cookie = _cookie(attachment)
        if cookie is not None:
            slaves[cookie].append(attachment.ifindex)
    for cookie, slave in known.items():
        if slave not in slaves.get(cookie, ()):
            kernel.maps.netns_pods.delete(Cookie(cookie))
    for cookie, ifindexes in slaves.items():
        kernel.maps.netns_pods.add(Cookie(cookie), Number(ifindexes[0]))


def _cookie(attachment: Attachment) -> int | None:
    """The cookie of the attachment's netns; None when it is gone or the kernel does not tell."""
    netns_fd = open_netns(attachment)
    if netns_fd < 0:
        return None
    try:
        netns.enter(netns_fd)
        return netns.cookie()
    except NetlinkError:
        return None
    finally:
        os.close(netns_fd)


def backends_gone(node: Node, gone: Sequence[GoneBackend]) -> None:
    """Have the sockets closed that are connected to these backends; the maps must say already that they are gone."""
    node.lost_backends |= {
        (one.backend_id, protocol)
        for one in gone
        for protocol in ((one.protocol,) if one.protocol else PROTOCOLS)
        if protocol == "UDP" or one.state != DRAINING
    }
    if node.lost_backends:
        node.lost.set()


async def run(node: Node) -> None:
    """Close sockets of lost backends for ever; first those that an earlier agent did not live to close."""
    lost = await threads.run(node.kernel.maps.lost_backends)
    node.lost_backends |= {one for one in lost if one[1] in PROTOCOLS}  # a pinned map is untrusted input
    while True:
        ids, node.lost_backends = node.lost_backends, set()
        node.lost.clear()
        if ids:
            await _close_sockets(node, ids)
            await asyncio.sleep(PAUSE_S)
        await node.lost.wait()


async def _close_sockets(node: Node, ids: set[tuple[int, str]]) -> None:
    attachments = {attachment.ifindex: attachment for attachment in node.ledger.attachments()}
    try:
        sockets = await threads.run(partial(_sockets_of, node.kernel, ids))
    except OSError as error:
        log.warning("sockets of removed backends stay open: %s", error, extra={"reason": str(error)})
        return
    for slave in sockets.keys() & attachments.keys():
        try:
            count = await threads.run(partial(_close_in_pod, node.kernel, attachments[slave], sockets[slave]))
        except (NetlinkError, OSError) as error:
            log.warning("sockets of removed backends stay open: %s", error, extra={"reason": str(error)})
            continue
        if count:
            log.info("sockets of removed backends closed", extra={"count": count})


def _sockets_of(kernel: Datapath, ids: set[tuple[int, str]]) -> dict[int, list[SocketKey]]:
    """The destinations (as on the wire) of sockets that had these backends, by slave; many are closed long since."""
    found: dict[int, list[SocketKey]] = defaultdict(list)
    numbers = {number for number, _ in ids}
    for key, peer in kernel.maps.sockets_of(numbers):
        if (peer.backend_id, key.protocol) in ids:
            found[peer.slave_ifindex].append(key)
    return found


def _close_in_pod(kernel: Datapath, attachment: Attachment, keys: Sequence[SocketKey]) -> int:
    """Close the pod's sockets that are still connected there; how many there were. In a throw-away thread."""
    wanted: Mapping[tuple[str, int, bytes, int], SocketKey] = {
        (key.protocol, key.cookie, pack_ip(key.address), key.port): key for key in keys
    }
    netns_fd = open_netns(attachment)
    if netns_fd < 0:
        return 0
    try:
        netns.enter(netns_fd)
    finally:
        os.close(netns_fd)
    count = 0
    with DiagSocket() as diag:
        for protocol in sorted({key.protocol for key in keys}):
            for one in diag.connected(protocol):
                key = wanted.get((protocol, one.cookie, one.remote, one.port))
                if key is not None:
                    count += diag.destroy(one)
                    kernel.maps.forget_socket(key)
    return count
