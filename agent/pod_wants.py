"""What an attachment asks for, from its network configuration and its pod. Pure."""

from __future__ import annotations

import msgspec

from allocator.attachments import Attachment, AttachmentKey, Facts
from allocator.selection import Want
from cluster.resources import Pod
from cni import errors
from cni.errors import CniError
from cni.request import NetworkConfig, Request
from datapath.netlink import Uplink
from datapath.wireplan import PodAddress, PodWiring

DEFAULT_NETWORK = "v1.multus-cni.io/default-network"
IPPOOL = "ipam.spidernet.io/ippool"
AGENT_NAMESPACE = "kube-system"


class _PoolsAnnotation(msgspec.Struct, frozen=True):
    """`ipam.spidernet.io/ippool`: `{"ipv4": [...], "ipv6": [...]}`."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


def key_of(request: Request) -> AttachmentKey:
    """The attachment's key in the allocator's words."""
    return AttachmentKey(request.key.network, request.key.container_id, request.key.ifname)


def want_of(request: Request, pod: Pod | None, node_name: str, default_network: str) -> Want:
    """Network and pools of one attachment: the pod's annotation goes before the network configuration.

    Raises CniError (invalid configuration) for an annotation that cannot be read.
    """
    annotations = pod.metadata.annotations if pod is not None else {}
    return Want(
        node=node_name,
        network=network_of(request.config, request.key.ifname, annotations, default_network),
        pool_names=_pool_names(annotations, request.config),
    )


def network_of(config: NetworkConfig, ifname: str, annotations: dict[str, str], default_network: str) -> str:
    """The SpiderMultusConfig ("ns/name") of this NIC: the one the configuration was rendered from, else by annotation.

    A name without namespace is in the agent's. Only eth0 can be told by annotation; "" when it cannot be told.
    """
    if config.multus_name:
        return config.multus_name
    if ifname != "eth0":
        return ""
    name = annotations.get(DEFAULT_NETWORK, "").strip() or default_network
    return name if not name or "/" in name else f"{AGENT_NAMESPACE}/{name}"


def _pool_names(annotations: dict[str, str], config: NetworkConfig) -> dict[int, tuple[str, ...]] | None:
    text = annotations.get(IPPOOL)
    if text is None:
        named = {4: config.ippools.ipv4, 6: config.ippools.ipv6}
    else:
        try:
            pools = msgspec.json.decode(text, type=_PoolsAnnotation)
        except msgspec.MsgspecError as error:
            reason = f"the pod's annotation {IPPOOL} cannot be used: {error}"
            raise CniError(errors.BAD_CONFIG, reason, 'write it as {"ipv4": ["pool"], "ipv6": ["pool"]}') from error
        named = {4: pools.ipv4, 6: pools.ipv6}
    return named if any(named.values()) else None


def facts_of(request: Request, netns: tuple[int, int]) -> Facts:
    """What an ADD knows before it has an address; `netns` is (st_dev, st_ino) of the pod's namespace."""
    pod = request.pod
    return Facts(
        started_ns=request.started_ns,
        pod_namespace=pod.namespace if pod else "",
        pod_name=pod.name if pod else "",
        pod_uid=pod.uid if pod else "",
        netns_path=request.netns_path,
        netns_dev=netns[0],
        netns_ino=netns[1],
        link_kind=request.config.link_kind,
        uplink=request.config.master,
    )


def wiring_of(
    attachment: Attachment,
    uplink: Uplink,
    node_addresses: tuple[str, ...],
    config: NetworkConfig,
) -> PodWiring:
    """The wiring of an attachment whose addresses are known."""
    return PodWiring(
        kind=attachment.link_kind,
        mode=config.mode,
        mtu=config.mtu,
        uplink=uplink,
        ifname=attachment.ifname,
        ifindex=attachment.ifindex,
        addresses=tuple(PodAddress(lease.address, lease.gateway) for lease in attachment.leases),
        routes=attachment.routes,
        default_route=config.default_route,
        node_addresses=node_addresses,
        container_id=attachment.container_id,
    )


def leftover_of(attachment: Attachment, uplink: Uplink) -> PodWiring:
    """The wiring of an attachment as far as taking it away needs it (routes and MTU go with the link)."""
    return PodWiring(
        kind=attachment.link_kind,
        mode="",
        mtu=0,
        uplink=uplink,
        ifname=attachment.ifname,
        ifindex=attachment.ifindex,
        addresses=tuple(PodAddress(lease.address, lease.gateway) for lease in attachment.leases),
        routes=(),
        default_route=False,
        node_addresses=(),
        container_id=attachment.container_id,
    )
