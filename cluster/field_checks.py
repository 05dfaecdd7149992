"""Checks on field values that a type cannot express: a range outside its subnet, an address that is none.

Thinking only. Everything raises FieldError; `cluster.resources` adds kind and key. The pool rules are those of
Spiderpool's webhook for one pool alone (rules that compare pools need the whole list and live elsewhere).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Final

from cluster.specs import PoolSpec, Route, ServiceSpec

if TYPE_CHECKING:  # resources imports this module
    from cluster.resources import EndpointSlice

_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_FAMILIES: Final = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}

Span = tuple[int, int]
"""First and last address of a range, as numbers, both included."""


class FieldError(ValueError):
    """`field` is a path like "spec.ips[0]"."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def check_name(name: str) -> None:
    """A DNS subdomain (RFC 1123): names become file names, so "../x" must not pass."""
    if not _SUBDOMAIN.fullmatch(name):
        raise FieldError("metadata.name", f"{name!r} is not a DNS subdomain name")


def check_namespace(namespace: str) -> None:
    """A DNS label, or "" for cluster-scoped objects."""
    if namespace and not _LABEL.fullmatch(namespace):
        raise FieldError("metadata.namespace", f"{namespace!r} is not a DNS label")


def check_pool(spec: PoolSpec) -> None:
    """Subnet, family, ranges, gateway and routes of one SpiderIPPool."""
    subnet = _network("spec.subnet", spec.subnet)
    if spec.ip_version is not None and spec.ip_version != subnet.version:
        raise FieldError("spec.ipVersion", f"{spec.ip_version} does not match subnet {spec.subnet}")
    ips = _spans("spec.ips", spec.ips, subnet)
    excluded = _spans("spec.excludeIPs", spec.exclude_ips, subnet)
    if spec.gateway:
        gateway = _inside("spec.gateway", spec.gateway, subnet)
        if _covers(ips, gateway) and not _covers(excluded, gateway):
            raise FieldError(
                "spec.gateway", f"{spec.gateway} is one of spec.ips; list it in spec.excludeIPs or move it"
            )
    _check_routes(spec.routes, subnet)


def check_service(spec: ServiceSpec) -> None:
    """ClusterIPs are addresses, "None" (headless) or "" (not assigned yet)."""
    for index, text in enumerate(spec.cluster_ips):
        _cluster_ip(f"spec.clusterIPs[{index}]", text)
    _cluster_ip("spec.clusterIP", spec.cluster_ip)


def check_slice(endpoint_slice: EndpointSlice) -> None:
    """Every endpoint address is of the slice's address type (FQDN slices carry names and are not checked)."""
    family = _FAMILIES.get(endpoint_slice.address_type)
    if family is None:
        if endpoint_slice.address_type != "FQDN":
            raise FieldError("addressType", f"{endpoint_slice.address_type!r} is none of IPv4, IPv6, FQDN")
        return
    for index, endpoint in enumerate(endpoint_slice.endpoints):
        for position, text in enumerate(endpoint.addresses):
            if not _is_address(text, family):
                path = f"endpoints[{index}].addresses[{position}]"
                raise FieldError(path, f"{text!r} is not an {endpoint_slice.address_type} address")


def _is_address(text: str, family: int) -> bool:
    try:
        socket.inet_pton(family, text)
    except (OSError, UnicodeError, ValueError):  # ValueError: an embedded NUL
        return False
    return True


def _cluster_ip(field: str, text: str) -> None:
    if text not in ("", "None") and not any(_is_address(text, family) for family in _FAMILIES.values()):
        raise FieldError(field, f"{text!r} is not an IP address")


def _network(field: str, text: str) -> IPv4Network | IPv6Network:
    if not text.rpartition("/")[2].isdecimal() or "/" not in text or "%" in text:
        raise FieldError(field, f"{text!r} is not a CIDR (address/prefix length)")
    try:
        return ip_network(text)
    except ValueError as error:
        raise FieldError(field, str(error)) from error


def _inside(field: str, text: str, subnet: IPv4Network | IPv6Network) -> int:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise FieldError(field, f"{text!r} is not an IP address") from error
    if address.version != subnet.version:
        raise FieldError(field, f"{text} is IPv{address.version}, but the subnet {subnet} is IPv{subnet.version}")
    if address not in subnet:
        raise FieldError(field, f"{text} lies outside subnet {subnet}")
    return int(address)


def _spans(field: str, texts: Iterable[str], subnet: IPv4Network | IPv6Network) -> list[Span]:
    spans = []
    for index, text in enumerate(texts):
        path = f"{field}[{index}]"
        first_text, dash, last_text = text.partition("-")
        first = _inside(path, first_text, subnet)
        last = _inside(path, last_text, subnet) if dash else first
        if last < first:
            raise FieldError(path, f"range {text} runs backwards")
        spans.append((first, last))
    return spans


def _covers(spans: Iterable[Span], address: int) -> bool:
    return any(first <= address <= last for first, last in spans)


def _check_routes(routes: Iterable[Route], subnet: IPv4Network | IPv6Network) -> None:
    seen = set()
    for index, route in enumerate(routes):
        path = f"spec.routes[{index}]"
        dst = _network(f"{path}.dst", route.dst)
        if dst.version != subnet.version:
            raise FieldError(f"{path}.dst", f"{route.dst} is not IPv{subnet.version} like the subnet {subnet}")
        if dst.prefixlen == 0:
            raise FieldError(f"{path}.dst", "a default route comes from spec.gateway")
        if dst in seen:
            raise FieldError(f"{path}.dst", f"{route.dst} is there twice")
        seen.add(dst)
        _inside(f"{path}.gw", route.gw, subnet)
