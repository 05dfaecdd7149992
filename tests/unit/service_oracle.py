"""The dumb oracle: what all frontends offer, from scratch, every Service against every slice, one rule after the other.

Knows only the spellings that `test_cluster_services_oracle` uses: canonical addresses, and no junk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cluster.resources import EndpointSlice, Node, Service
from cluster.specs import Endpoint

LABELS = {"service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"}


def family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def ready(endpoint: Endpoint) -> bool:
    return endpoint.conditions.ready in (None, True)


def serving_terminating(endpoint: Endpoint) -> bool:
    return endpoint.conditions.serving in (None, True) and endpoint.conditions.terminating is True


def hints(endpoint: Endpoint, what: str) -> set[str]:
    return {hint.name for hint in getattr(endpoint.hints, what)} if endpoint.hints else set()


def usable(endpoints: list[Endpoint], local: bool, node: str, zone: str) -> list[Endpoint]:
    """kube-proxy's rule, for endpoints of one port of one Service in one family."""
    if local:
        mine = [endpoint for endpoint in endpoints if endpoint.node_name == node]
        return [one for one in mine if ready(one)] or [one for one in mine if serving_terminating(one)]
    good = [endpoint for endpoint in endpoints if ready(endpoint)]
    for what, own in (("for_nodes", node), ("for_zones", zone)):
        near = [endpoint for endpoint in good if own in hints(endpoint, what)]
        if near and all(hints(endpoint, what) for endpoint in good):
            return near
    return good or [endpoint for endpoint in endpoints if serving_terminating(endpoint)]


def called(service: Service) -> dict[tuple[str, int, str], tuple[Any, bool]]:
    """Frontends of one Service: (its port, whether it is a ClusterIP)."""
    spec = service.spec
    ips = [ip for ip in (spec.cluster_ips or (spec.cluster_ip,)) if ip not in ("", "None")]
    if spec.type == "ExternalName" or not ips or LABELS & service.metadata.labels.keys():
        return {}
    families = {family(ip) for ip in ips}
    found: dict[tuple[str, int, str], tuple[Any, bool]] = {}
    outside = list(spec.external_ips)
    if not spec.load_balancer_source_ranges:
        outside += [one.ip for one in service.status.load_balancer.ingress if one.ip_mode != "Proxy"]
    for port in spec.ports:
        for ip in outside:
            if family(ip) in families:
                found[ip, port.port, port.protocol] = (port, False)
        for name, any_node in (("IPv4", "0.0.0.0"), ("IPv6", "::")):
            if name in families and port.node_port and spec.type in ("NodePort", "LoadBalancer"):
                found[any_node, port.node_port, port.protocol] = (port, False)
    for port in spec.ports:
        for ip in ips:
            found[ip, port.port, port.protocol] = (port, True)
    return found


def offer(frontend: tuple[str, int, str], port: Any, local: bool, slices: list[EndpointSlice], here: Any) -> Any:
    """(backends, draining, whether SCTP left some out)."""
    by_number = [
        (number.port, endpoint)
        for one in slices
        for number in one.ports
        if (number.name, number.protocol) == (port.name, port.protocol) and number.port is not None
        for endpoint in one.endpoints
    ]
    chosen = usable([endpoint for _, endpoint in by_number], local, *here)
    # By identity: two equal endpoints in two slices get the same answer, so it does not matter which one it was.
    good = {(endpoint.addresses[0], number) for number, endpoint in by_number if any(endpoint is one for one in chosen)}
    rest = {(endpoint.addresses[0], number) for number, endpoint in by_number} - good
    sctp = frontend[2] == "SCTP"
    fit = [tuple(sorted(one for one in some if not sctp or one[1] == frontend[1])) for some in (good, rest)]
    return fit[0], fit[1], len(fit[0]) + len(fit[1]) < len(good) + len(rest)


def expected(
    services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Mapping[str, Node], own: str
) -> dict[tuple[str, int, str], tuple[Any, ...]]:
    """All frontends with what they offer; of several Services the ClusterIP's, then the first by key."""
    zone = nodes[own].metadata.labels.get("topology.kubernetes.io/zone", "") if own in nodes else ""
    found: dict[tuple[str, int, str], list[tuple[Any, ...]]] = {}
    for service in services:
        for frontend, (port, cluster_ip) in called(service).items():
            its = [
                one
                for one in slices
                if one.service_key == service.key
                and one.address_type == family(frontend[0])
                and not LABELS & one.metadata.labels.keys()
            ]
            local = cluster_ip and service.spec.internal_traffic_policy == "Local"
            backends, draining, cut = offer(frontend, port, local, its, (own, zone))
            if backends or cluster_ip or not cut:
                seconds = 10800 if service.spec.session_affinity == "ClientIP" else 0
                offers = found.setdefault(frontend, [])
                offers.append((backends, draining, seconds, cluster_ip, service.key))
    return {frontend: min(offers, key=lambda one: (not one[3], one[4])) for frontend, offers in found.items()}
