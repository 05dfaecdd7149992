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
    node_port: Annotated[int, Meta(ge=0, le=65535)] = 0


class ClientIPConfig(Fact, frozen=True):
    timeout_seconds: Annotated[int, Meta(ge=1, le=86400)] = 10800


class SessionAffinityConfig(Fact, frozen=True):
    client_ip: ClientIPConfig = field(default=ClientIPConfig(), name="clientIP")


class ServiceSpec(Fact, frozen=True):
    """`cluster_ip` "" = not assigned yet, "None" = headless. `session_affinity` is "None" or "ClientIP"."""

    type: str = "ClusterIP"
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig = SessionAffinityConfig()
    internal_traffic_policy: str = "Cluster"
    ip_families: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    load_balancer_source_ranges: tuple[str, ...] = ()


class LoadBalancerIngress(Fact, frozen=True):
    """`ip_mode` "" = "VIP"; with "Proxy" the real balancer must see the packets."""

    ip: str = ""
    ip_mode: str = ""


class LoadBalancerStatus(Fact, frozen=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Fact, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()


class EndpointConditions(Fact, frozen=True):
    """None = the API's "unknown": read as ready, serving, not terminating."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class TargetRef(Fact, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Hint(Fact, frozen=True):
    name: str = ""


class EndpointHints(Fact, frozen=True):
    """For callers on which nodes and in which zones the endpoint is meant."""

    for_nodes: tuple[Hint, ...] = ()
    for_zones: tuple[Hint, ...] = ()


class Endpoint(Fact, frozen=True):
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""
    hints: EndpointHints | None = None
    target_ref: TargetRef | None = None


class EndpointPort(Fact, frozen=True):
    """`port` None = all ports, which a Service cannot use."""

    port: Port | None = None
    name: str = ""
    protocol: str = "TCP"
