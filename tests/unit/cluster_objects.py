"""Services, EndpointSlices and Nodes as the API gives them, with short defaults, and what they make together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cluster.resources import EndpointSlice, Node, Service, parse
from cluster.services import Frontend, Offer, ServiceBook

OWN_NODE = "node-a"
WEB = ("10.96.0.10", 80, "TCP")
WEB6 = ("fd00:96::10", 80, "TCP")


def service(name: str = "web", labels: dict[str, str] | None = None, status: Any = None, **spec: Any) -> Service:
    """A Service in "default" at 10.96.0.10:80, which leads to port 8080."""
    defaults = {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "targetPort": 8080}]}
    metadata = {"name": name, "labels": labels or {}}
    parsed = parse(
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": defaults | spec, "status": status}
    )
    assert isinstance(parsed, Service)
    return parsed


def piece(name: str, *addresses: str, of: str = "web", **fields: Any) -> EndpointSlice:
    """A slice of ready endpoints on port 8080; IPv6 if the first address is."""
    family = "IPv6" if addresses and ":" in addresses[0] else "IPv4"
    defaults = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": of} | fields.pop("labels", {})},
        "addressType": family,
        "endpoints": [{"addresses": [address]} for address in addresses],
        "ports": [{"port": 8080}],
    }
    parsed = parse(defaults | fields)
    assert isinstance(parsed, EndpointSlice)
    return parsed


def endpoint(address: str, *, node: str | None = None, hints: Any = None, **conditions: bool | None) -> dict[str, Any]:
    """One endpoint as the API writes it; `hints` as {"zones": [...], "nodes": [...]}."""
    given = {f"for{kind.title()}": [{"name": name} for name in names] for kind, names in (hints or {}).items()}
    return {"addresses": [address], "nodeName": node, "conditions": conditions, "hints": given or None}


def node(name: str, *addresses: tuple[str, str], zone: str = "") -> Node:
    """A Node with (type, address) pairs."""
    labels = {"topology.kubernetes.io/zone": zone} if zone else {}
    given = [{"type": kind, "address": address} for kind, address in addresses]
    raw = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    parsed = parse(raw | {"status": {"addresses": given}})
    assert isinstance(parsed, Node)
    return parsed


def book_of(*objects: Service | EndpointSlice | Node) -> ServiceBook:
    """A book on node-a that was told of the objects, in this order."""
    book = ServiceBook(OWN_NODE)
    for one in objects:
        if isinstance(one, Service):
            book.put_service(one.key, one)
        elif isinstance(one, EndpointSlice):
            book.put_slice(one.key, one)
        else:
            book.put_node(one.key, one)
    return book


def offered(*objects: Service | EndpointSlice | Node) -> dict[Frontend, Offer]:
    """All frontends on node-a of the objects."""
    return book_of(*objects).frontends()


def backends(frontends: dict[Frontend, Offer]) -> dict[Any, Any]:
    """Only the backends that new flows may choose."""
    return {frontend: offer.backends for frontend, offer in frontends.items()}


def hosts(given: Iterable[tuple[str, int]]) -> list[str]:
    """The last part of each IPv4 address: [1, 2] is easier to read."""
    return [address.rpartition(".")[2] for address, _ in given]
