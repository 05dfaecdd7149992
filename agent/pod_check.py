"""CHECK and STATUS: is the pod as it was told, and can the next one be served?"""

from __future__ import annotations

from agent import pod_add, pod_wants
from agent.cni_numbers import KNOWN, cni_error
from agent.node import Node
from cni import errors, result
from cni.errors import CniError
from cni.request import Request


async def pod_check(node: Node, request: Request) -> bytes:
    """Nothing to print when journal, kernel and the runtime's prevResult agree. Raises CniError naming differences."""
    attachment = node.ledger.find(pod_wants.key_of(request))
    if attachment is None:
        raise CniError(
            errors.UNKNOWN_CONTAINER, f"container {request.key.container_id} has no {request.key.ifname} here"
        )
    prev = result.parse_prev_result(request.config.prev_result, request.config.cni_version)
    told = {ip.address for ip in prev.ips}
    held = {lease.address for lease in attachment.leases}
    differences = [f"address {address} is held, but not in prevResult" for address in sorted(held - told)]
    try:
        differences += await pod_add.check(node, attachment, request)
    except KNOWN as error:
        raise cni_error(error) from error
    if differences:
        raise CniError(errors.CHECK_FAILED, differences[0], "; ".join(differences[1:]))
    return b""


async def node_status(node: Node, request: Request) -> bytes:
    """Nothing to print when ADD can be served. Raises CniError 50 saying why not."""
    del request
    reasons = node.not_ready()
    if reasons:
        raise CniError(errors.NOT_AVAILABLE, "; ".join(reasons))
    return b""
