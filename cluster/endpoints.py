"""From EndpointSlices to the backends that calls from this node may choose. Pure; the rules are kube-proxy's.

* Endpoints that are ready; without any, those that still serve while they terminate, for each traffic policy on its
  own. publishNotReadyAddresses and trafficDistribution need no rule here: the slices' writer has put the first into
  `ready` and the second into `hints`.
* Local: those on this node, or none at all. Else hints: those for this node, or those for this node's zone, if every
  ready endpoint has such a hint and at least one is for us; otherwise all.
* Every other endpoint in a slice is draining: it gets no new flows and keeps those it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from cluster.addresses import canonical, family_of
from cluster.frontends import another_proxys
from cluster.resources import EndpointSlice
from cluster.specs import Endpoint, EndpointPort


class Backend(NamedTuple):
    """Where a call ends."""

    address: str
    port: int


class Choice(NamedTuple):
    """Backends for new flows, and those that only keep flows; each sorted, no backend twice."""

    chosen: tuple[Backend, ...] = ()
    draining: tuple[Backend, ...] = ()


class Here(NamedTuple):
    """The node that the calls come from. "" = not known."""

    node: str = ""
    zone: str = ""


class Place(NamedTuple):
    """An endpoint. `leaving`: serves while it terminates. `nodes` and `zones`: the hints."""

    address: str
    node: str
    ready: bool
    leaving: bool
    nodes: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()


class Piece(NamedTuple):
    """What counts of one EndpointSlice. `ports`: (name, protocol) to numbers."""

    service: str
    family: str
    ports: Mapping[tuple[str, str], tuple[int, ...]]
    places: tuple[Place, ...]
    hinted: bool


def piece(endpoint_slice: EndpointSlice) -> Piece | None:
    """The slice without what nobody asks; None when it is not for us (names instead of addresses, another proxy's)."""
    family = endpoint_slice.address_type
    service = endpoint_slice.service_key
    if family not in ("IPv4", "IPv6") or not service or another_proxys(endpoint_slice.metadata.labels):
        return None
    places = tuple(
        place for place in map(_place, endpoint_slice.endpoints) if place.address and family_of(place.address) == family
    )
    hinted = any(place.nodes or place.zones for place in places)
    return Piece(service, family, _ports(endpoint_slice.ports), places, hinted)


def choose(pieces: Iterable[Piece], target: tuple[str, str], local: bool, here: Here) -> Choice:
    """The backends of one port of a Service in the slices of one family."""
    offering = [(one.places, one.ports[target]) for one in pieces if target in one.ports]
    places = [place for some, _ in offering for place in some]
    takes = _local_rule(places, here) if local else _cluster_rule(places, here)
    chosen: set[Backend] = set()
    rest: set[Backend] = set()
    for some, ports in offering:
        for port in ports:
            for place in some:
                (chosen if takes(place) else rest).add(Backend(place.address, port))
    rest -= chosen  # an endpoint on its way from slice to slice is in two
    return Choice(tuple(sorted(chosen)), tuple(sorted(rest)))


def _cluster_rule(places: Iterable[Place], here: Here) -> Callable[[Place], bool]:
    ready = [place for place in places if place.ready]
    if not ready:
        return _is_leaving
    if all(place.nodes for place in ready) and any(here.node in place.nodes for place in ready):
        return lambda place: place.ready and here.node in place.nodes
    if all(place.zones for place in ready) and any(here.zone in place.zones for place in ready):
        return lambda place: place.ready and here.zone in place.zones
    return _is_ready


def _local_rule(places: Iterable[Place], here: Here) -> Callable[[Place], bool]:
    if not here.node:
        return lambda _: False
    takes = _is_ready if any(place.ready and place.node == here.node for place in places) else _is_leaving
    return lambda place: place.node == here.node and takes(place)


def _is_ready(place: Place) -> bool:
    return place.ready


def _is_leaving(place: Place) -> bool:
    return place.leaving


def _place(endpoint: Endpoint) -> Place:
    """Of one endpoint's addresses only the first is used, as the API allows and kube-proxy does; "" if it has none."""
    address = endpoint.addresses[0] if endpoint.addresses else ""
    if ":" in address:
        address = canonical(address)
    conditions = endpoint.conditions
    ready = conditions.ready is not False
    leaving = conditions.terminating is True and conditions.serving is not False
    if endpoint.hints is None:
        return Place(address, endpoint.node_name, ready, leaving)
    nodes = tuple(hint.name for hint in endpoint.hints.for_nodes if hint.name)
    zones = tuple(hint.name for hint in endpoint.hints.for_zones if hint.name)
    return Place(address, endpoint.node_name, ready, leaving, nodes, zones)


def _ports(ports: Iterable[EndpointPort]) -> dict[tuple[str, str], tuple[int, ...]]:
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for port in ports:
        if port.port is not None:
            target = (port.name, port.protocol)
            found[target] = (*found.get(target, ()), port.port)
    return found
