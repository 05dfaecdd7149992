"""ADD: a pod starts. Select pools, take an address, journal it, wire the pod, answer; publish afterwards."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from agent import pod_wants, threads, uplink_up
from agent.cni_numbers import KNOWN, cni_error
from agent.node import Node
from agent.pod_del import abandon
from allocator.attachments import AnyRecord, Attachment, AttachmentKey, State
from cluster.resources import Pod
from cni import errors, result
from cni.errors import CniError
from cni.request import Request
from datapath import unwiring, wirecheck, wiring
from datapath.netlink import Uplink
from datapath.rtsocket import UplinkUnusable
from datapath.wireplan import PodWiring, Wired, mac_of, routes_of

POD_WAIT_S = 2.0
"""The runtime may be faster than the watch: how long ADD waits for the Pod object."""
STATIC_POD_UID = "kubernetes.io/config.hash"


async def pod_add(node: Node, request: Request) -> bytes:
    """The result, rendered in the configuration's version. Raises CniError; then nothing of the attachment is left."""
    refuse_when_not_ready(node)
    key = pod_wants.key_of(request)
    if key in node.reaping:  # a DEL of the same key has been answered, its link may still be there
        await asyncio.wait([node.reaping[key]])
    try:
        known = node.ledger.find(key)
        plan, wired = await (_add(node, key, request) if known is None else _repeat(node, known, request))
    except KNOWN as error:
        await uplink_up.release_idle(node, request.config.master)
        raise cni_error(error) from error
    return result.render(_result(plan, wired, request), request.config.cni_version)


def refuse_when_not_ready(node: Node) -> None:
    """Raise CniError 11 while ADD cannot be served."""
    reasons = node.not_ready()
    if reasons:
        raise CniError(errors.TRY_AGAIN, f"the agent is starting: {'; '.join(reasons)}")


async def _add(node: Node, key: AttachmentKey, request: Request) -> tuple[PodWiring, Wired]:
    pod = await _pod(node, request)
    want = pod_wants.want_of(request, pod, node.config.node_name, node.config.default_network)
    uplink = await node.uplinks.get(request.config.master)
    status = os.fstat(request.netns_fd)
    facts = pod_wants.facts_of(request, (status.st_dev, status.st_ino))
    await node.gate.enter()
    try:
        attachment, taken = node.ledger.take(key, want, facts, time.monotonic())
        assert attachment is not None
        try:
            plan = _plan(node, attachment, uplink, request)
            return plan, await _wire(node, attachment, plan, taken, request)
        except BaseException as error:
            if isinstance(error, UplinkUnusable):
                node.uplinks.forget(uplink.name)  # the next ADD looks at it again
            await abandon(node, key)
            raise
        finally:
            node.publisher.touch(*(lease.pool for lease in attachment.leases))
    finally:
        node.gate.leave()


async def _wire(
    node: Node, attachment: Attachment, plan: PodWiring, taken: Sequence[AnyRecord], request: Request
) -> Wired:
    """Journal and wire a taken attachment in one thread; on any error nothing of it is left in the kernel."""
    # Said before it is true, so that the thread that wires the pod can journal it; see agent.gate.
    ready = node.ledger.ready(attachment.key, mac_of(plan).hex(":")).records

    def transaction() -> Wired:
        node.journal.commit(*taken)
        wired = wiring.wire(plan, request.netns_fd, node.kernel)
        try:
            node.journal.commit(*ready)
        except BaseException:
            unwiring.unwire(plan, request.netns_fd, node.kernel)
            unwiring.reap(plan, request.netns_fd, node.kernel)
            raise
        return wired

    return await threads.run(transaction)


def _plan(node: Node, attachment: Attachment, uplink: Uplink, request: Request) -> PodWiring:
    return pod_wants.wiring_of(attachment, uplink, node.uplinks.node_addresses, request.config)


async def _repeat(node: Node, known: Attachment, request: Request) -> tuple[PodWiring, Wired]:
    """The same ADD once more: the same answer, if the attachment is whole and in the same namespace."""
    status = os.fstat(request.netns_fd)
    if (status.st_dev, status.st_ino) != (known.netns_dev, known.netns_ino):
        reason = f"container {known.container_id} is attached as {known.ifname} in another namespace"
        raise CniError(errors.LINK_EXISTS, reason, "send DEL for it first")
    differences = await check(node, known, request)
    if node.ledger.state(known.key) is not State.READY:
        differences.append("a DEL of it has begun")
    if differences:
        raise CniError(errors.LINK_EXISTS, "it is attached already, but not whole: send DEL first", differences[0])
    uplink = await node.uplinks.get(request.config.master)
    return _plan(node, known, uplink, request), Wired(known.mac, request.config.mtu or uplink.mtu)


async def check(node: Node, attachment: Attachment, request: Request) -> list[str]:
    """In what the kernel differs from the attachment, as sentences."""
    uplink = await node.uplinks.get(request.config.master)
    plan = _plan(node, attachment, uplink, request)
    return await threads.run(lambda: wirecheck.check(plan, request.netns_fd, node.kernel))


async def _pod(node: Node, request: Request) -> Pod | None:
    """The Pod object, waited for briefly; None for a container that is no pod."""
    if request.pod is None:
        return None
    try:
        pod = await node.store.wait_for(Pod, request.pod.namespace, request.pod.name, POD_WAIT_S)
    except TimeoutError as error:
        name = f"{request.pod.namespace}/{request.pod.name}"
        raise CniError(errors.TRY_AGAIN, f"pod {name} is not in the store (yet)") from error
    # A static pod's object in the API is a mirror: the uid that the runtime knows is in its annotation.
    known = {pod.metadata.uid, pod.metadata.annotations.get(STATIC_POD_UID, "")}
    if request.pod.uid and pod.metadata.uid and request.pod.uid not in known:
        reason = f"pod {pod.key} has uid {pod.metadata.uid}, the runtime says {request.pod.uid}"
        raise CniError(errors.TRY_AGAIN, reason, "an older pod of this name, or a watch that lags behind")
    return pod


def _result(plan: PodWiring, wired: Wired, request: Request) -> result.Result:
    return result.Result(
        interfaces=(result.Interface(plan.ifname, wired.mac, request.netns_path, wired.mtu),),
        ips=tuple(result.IPConfig(item.address, item.gateway) for item in plan.addresses),
        routes=tuple(result.Route(destination, gateway) for destination, gateway in routes_of(plan)),
    )
