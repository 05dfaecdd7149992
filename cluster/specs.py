"""The inner structs of the objects in `cluster.resources`: specs, statuses and what they are made of."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, field

Port = Annotated[int, Meta(ge=1, le=65535)]


class Fact(Struct, frozen=True, rename="camel"):
    """Base of every struct here: frozen, camelCase on the wire, unknown fields ignored."""


class Route(Fact, frozen=True):
    dst: str
    gw: str


class PoolSpec(Fact, frozen=True):
    """`ips` and `exclude_ips` are "a" or "a-b"; empty lists mean "no limit" for node_name and multus_name."""

    subnet: str
    ips: tuple[str, ...] = ()
    exclude_ips: tuple[str, ...] = field(default=(), name="excludeIPs")
    gateway: str = ""
    routes: tuple[Route, ...] = ()
    node_name: tuple[str, ...] = ()
    multus_name: tuple[str, ...] = ()
    namespace_name: tuple[str, ...] = ()
    default: bool = False
    disable: bool = False
    ip_version: int | None = None
    pod_affinity: dict[str, Any] | None = None
    namespace_affinity: dict[str, Any] | None = None
    node_affinity: dict[str, Any] | None = None


class PoolStatus(Fact, frozen=True):
    """`allocated_ips` is JSON `{"<ip>": {"interface", "pod": "ns/name", "podUid"}}`; "" when nothing is allocated."""

    allocated_ips: str = field(default="", name="allocatedIPs")
    allocated_ip_count: int = field(default=0, name="allocatedIPCount")
    total_ip_count: int = field(default=0, name="totalIPCount")


class NetworkPools(Fact, frozen=True):
    """Pool names by family."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


class LinkConfig(Fact, frozen=True):
    """The `macvlan` or `ipvlan` block. `mtu` 0 = the uplink's; `vlan_id` 0 or None = untagged."""

    master: tuple[str, ...]
    vlan_id: Annotated[int, Meta(ge=0, le=4094)] | None = field(default=None, name="vlanID")
    mtu: Annotated[int, Meta(ge=0, le=65535)] = 0
    ippools: NetworkPools = NetworkPools()
    bond: dict[str, Any] | None = None


class MultusSpec(Fact, frozen=True):
    cni_type: str = "custom"
    ipvlan: LinkConfig | None = None
    macvlan: LinkConfig | None = None
    enable_coordinator: bool = True
    coordinator: dict[str, Any] | None = None
    custom_cni: str = field(default="", name="customCNI")


class NodeAddress(Fact, frozen=True):
    type: str
    address: str


class NodeStatus(Fact, frozen=True):
    addresses: tuple[NodeAddress, ...] = ()


class PodSpec(Fact, frozen=True):
    node_name: str = ""
    host_network: bool = False


class PodIP(Fact, frozen=True):
    ip: str = ""


class PodStatus(Fact, frozen=True):
    phase: str = ""
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")


class ServicePort(Fact, frozen=True):
    port: Port
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    node_port: int = 0


class ServiceSpec(Fact, frozen=True):
    """`cluster_ip` "" = not assigned yet, "None" = headless."""

    type: str = "ClusterIP"
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    session_affinity: str = "None"
    internal_traffic_policy: str = "Cluster"


class EndpointConditions(Fact, frozen=True):
    """None = the API's "unknown", which consumers read as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Fact, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Fact, frozen=True):
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""
    target_ref: TargetRef | None = None


class EndpointPort(Fact, frozen=True):
    """`port` None = all ports, which a ClusterIP cannot use."""

    port: Port | None = None
    name: str = ""
    protocol: str = "TCP"
