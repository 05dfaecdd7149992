"""From Services and EndpointSlices to what a pod may call: frontends and their backends.

Pure. IPv4 ClusterIPs over TCP and UDP. A Service without ready endpoints is a frontend with (), so that calls are
refused and not sent to the gateway. Headless and ExternalName Services have no frontend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cluster.resources import EndpointSlice, Service
from cluster.specs import ServicePort

API_SERVICE: Final = "default/kubernetes"
"""The agent may reach the API server through this one: emptied, it would never hear of new endpoints again."""

_PROTOCOLS: Final = frozenset({"TCP", "UDP"})


class Frontend(NamedTuple):
    """What a pod calls. `protocol` is "TCP" or "UDP". A tuple, as `datapath.services` takes it."""

    address: str
    port: int
    protocol: str


class Backend(NamedTuple):
    """Where a call ends."""

    address: str
    port: int


Backends = tuple[Backend, ...]


def frontends(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> dict[Frontend, Backends]:
    """All frontends with their ready backends (merged from all slices of the Service, sorted, each once).

    Two Services with one ClusterIP and port (the API server forbids it): the one whose key sorts first has it.
    """
    book = ServiceBook()
    for endpoint_slice in slices:
        book.put_slice(endpoint_slice.key, endpoint_slice)
    for service in services:
        book.put_service(service.key, service)
    return book.frontends()


def never_empty(services: Iterable[Service]) -> frozenset[Frontend]:
    """The frontends of `default/kubernetes`: when its endpoints are gone, whatever is programmed has to stay.

    Given to `datapath.services.plan`, which knows what is programmed, also by an agent that ran before this one.
    """
    return frozenset(frontend for service in services if service.key == API_SERVICE for frontend in _ports(service))


class ServiceBook:
    """The same, kept current object by object: each change costs what its Service has, not what the cluster has.

    Every verb takes an object as it now is (None: gone) and returns the frontends that changed, None for one that went.
    """

    def __init__(self) -> None:
        self._services: dict[str, Service] = {}
        self._slices: dict[str, EndpointSlice] = {}
        self._slices_of: dict[str, set[str]] = {}  # service key -> slice keys
        self._frontends_of: dict[str, frozenset[Frontend]] = {}
        self._claims: dict[Frontend, dict[str, Backends]] = {}  # by service key; the first one counts

    def frontends(self) -> dict[Frontend, Backends]:
        """All frontends with their backends, as the function `frontends` gives them."""
        return {frontend: claims[min(claims)] for frontend, claims in self._claims.items()}

    def never_empty(self) -> frozenset[Frontend]:
        """The frontends of `default/kubernetes`, as the function `never_empty` gives them, without a search."""
        return self._frontends_of.get(API_SERVICE, frozenset())

    def put_service(self, key: str, service: Service | None) -> dict[Frontend, Backends | None]:
        """Take a Service ("ns/name") as it now is."""
        if service is None:
            self._services.pop(key, None)
        else:
            self._services[key] = service
        return self._renew(key)

    def put_slice(self, key: str, endpoint_slice: EndpointSlice | None) -> dict[Frontend, Backends | None]:
        """Take an EndpointSlice ("ns/name") as it now is; it may have moved to another Service."""
        old = self._slices.pop(key, None)
        if old is not None:
            self._slices_of[old.service_key].discard(key)
            if not self._slices_of[old.service_key]:
                del self._slices_of[old.service_key]
        if endpoint_slice is not None:
            self._slices[key] = endpoint_slice
            self._slices_of.setdefault(endpoint_slice.service_key, set()).add(key)
        changed: dict[Frontend, Backends | None] = {}
        for service_key in {given.service_key for given in (old, endpoint_slice) if given is not None}:
            changed |= self._renew(service_key)
        return changed

    def _renew(self, key: str) -> dict[Frontend, Backends | None]:
        service = self._services.get(key)
        slices = [self._slices[name] for name in self._slices_of.get(key, ())]
        now = _service_frontends(service, slices) if service is not None else {}
        before = self._frontends_of.get(key, frozenset())
        self._frontends_of[key] = frozenset(now)
        if not now:
            del self._frontends_of[key]
        changed: dict[Frontend, Backends | None] = {}
        for frontend in before | now.keys():
            old = self._winner(frontend)
            claims = self._claims.setdefault(frontend, {})
            if frontend in now:
                claims[key] = now[frontend]
            else:
                claims.pop(key, None)
                if not claims:
                    del self._claims[frontend]
            new = self._winner(frontend)
            if new != old:
                changed[frontend] = new
        return changed

    def _winner(self, frontend: Frontend) -> Backends | None:
        claims = self._claims.get(frontend)
        return claims[min(claims)] if claims else None


def _service_frontends(service: Service, slices: Iterable[EndpointSlice]) -> Mapping[Frontend, Backends]:
    """The frontends of one Service with the ready backends in its slices."""
    ports = _ports(service)
    found: dict[Frontend, set[Backend]] = {frontend: set() for frontend in ports}
    for endpoint_slice in slices:
        if endpoint_slice.address_type != "IPv4":
            continue
        # Of one endpoint's addresses only the first is used, as the API allows and kube-proxy does.
        ready = [
            endpoint.addresses[0]
            for endpoint in endpoint_slice.endpoints
            if endpoint.addresses and endpoint.conditions.ready is not False
        ]
        for frontend, port in ports.items():
            for target in endpoint_slice.ports:
                if target.port is not None and (target.name, target.protocol) == (port.name, port.protocol):
                    found[frontend].update(Backend(address, target.port) for address in ready)
    return {frontend: tuple(sorted(backends)) for frontend, backends in found.items()}


def _ports(service: Service) -> dict[Frontend, ServicePort]:
    spec = service.spec
    if spec.type == "ExternalName":
        return {}
    addresses = dict.fromkeys((*spec.cluster_ips, spec.cluster_ip))
    return {
        Frontend(address, port.port, port.protocol): port
        for address in addresses
        if "." in address and ":" not in address  # not "", "None" or IPv6
        for port in spec.ports
        if port.protocol in _PROTOCOLS
    }
