"""From one Service to its frontends: every (address, port, protocol) a pod may call it by. Pure.

What kube-proxy serves, seen from a pod: ClusterIPs, external IPs, load balancers' addresses and NodePorts, of the
families the Service has. A pod's calls count as internal traffic on external addresses, too: externalTrafficPolicy
Local narrows nothing (as kube-proxy short-circuits it), and internalTrafficPolicy Local narrows ClusterIPs only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from cluster.addresses import callable_address, family_of
from cluster.resources import Service
from cluster.specs import ServicePort, ServiceSpec

PROTOCOLS: Final = frozenset({"TCP", "UDP", "SCTP"})
ANY_NODE: Final[Mapping[str, str]] = {"IPv4": "0.0.0.0", "IPv6": "::"}
"""By family: the address of a NodePort's frontend. The programs ask for it when a packet is for a node."""

_FOREIGN_LABELS: Final = ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless")


class Frontend(NamedTuple):
    """What a pod calls. `protocol` is "TCP", "UDP" or "SCTP". A tuple, as `datapath.services` takes it."""

    address: str
    port: int
    protocol: str


class Entrance(NamedTuple):
    """One frontend of a Service and where it leads."""

    frontend: Frontend
    target: tuple[str, str]
    """(name, protocol) of the port in EndpointSlices."""
    cluster_ip: bool
    local: bool
    """Only endpoints on this node will do."""


class Entrances(NamedTuple):
    """All of one Service."""

    all: tuple[Entrance, ...] = ()
    affinity_s: int = 0
    problems: tuple[str, ...] = ()


def another_proxys(labels: Mapping[str, str]) -> bool:
    """Whether a Service or EndpointSlice with these labels is not for us, as it would not be for kube-proxy."""
    return any(label in labels for label in _FOREIGN_LABELS)


def entrances(service: Service) -> Entrances:
    """The frontends of a Service; none for ExternalName, headless, unassigned ones and those of another proxy.

    A value that makes no sense costs its own frontends only and is a problem: field, value and what to do.
    """
    spec = service.spec
    if spec.type == "ExternalName" or another_proxys(service.metadata.labels):
        return Entrances()
    problems: list[str] = []
    named = [text for text in dict.fromkeys((*spec.cluster_ips, spec.cluster_ip)) if text not in ("", "None")]
    cluster_ips = _usable("spec.clusterIPs", named, problems)
    if not cluster_ips:
        return Entrances(problems=tuple(problems))
    families = spec.ip_families or tuple({family_of(address) for address in cluster_ips})
    external = [address for address in _external(service, problems) if family_of(address) in families]
    found: dict[Frontend, Entrance] = {}
    for port in spec.ports:
        if port.protocol not in PROTOCOLS:
            problems.append(f"spec.ports: protocol {port.protocol!r} cannot be carried; use one of TCP, UDP, SCTP")
            continue
        for entrance in _of_port(spec, port, cluster_ips, external, families):
            found.setdefault(entrance.frontend, entrance)
    return Entrances(tuple(found.values()), _affinity_s(spec), tuple(problems))


def _of_port(
    spec: ServiceSpec,
    port: ServicePort,
    cluster_ips: Iterable[str],
    external: Iterable[str],
    families: Iterable[str],
) -> Iterator[Entrance]:
    """ClusterIPs first: an external IP that is also the ClusterIP adds nothing."""
    target, local = (port.name, port.protocol), spec.internal_traffic_policy == "Local"
    for address in cluster_ips:
        yield Entrance(Frontend(address, port.port, port.protocol), target, True, local)
    for address in external:
        yield Entrance(Frontend(address, port.port, port.protocol), target, False, False)
    if port.node_port and spec.type in ("NodePort", "LoadBalancer"):
        for family in families:
            if family in ANY_NODE:
                yield Entrance(Frontend(ANY_NODE[family], port.node_port, port.protocol), target, False, False)


def _external(service: Service, problems: list[str]) -> list[str]:
    """External IPs, and the balancer's where no real balancer has to see the packets (source ranges, mode "Proxy")."""
    found = _usable("spec.externalIPs", service.spec.external_ips, problems)
    if not service.spec.load_balancer_source_ranges:
        ingress = service.status.load_balancer.ingress
        virtual = [one.ip for one in ingress if one.ip and one.ip_mode in ("", "VIP")]
        found += _usable("status.loadBalancer.ingress", virtual, problems)
    return found


def _usable(field: str, texts: Iterable[str], problems: list[str]) -> list[str]:
    """The addresses among `texts`, in the maps' spelling, each once."""
    found: dict[str, None] = {}
    for text in texts:
        address = callable_address(text)
        if address:
            found[address] = None
        else:
            problems.append(f"{field}: {text!r} is not an address that can be called; correct or remove it")
    return list(found)


def _affinity_s(spec: ServiceSpec) -> int:
    return spec.session_affinity_config.client_ip.timeout_seconds if spec.session_affinity == "ClientIP" else 0
