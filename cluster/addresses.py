"""Addresses as text in the one spelling that map keys are compared in. Pure."""

from __future__ import annotations

from ipaddress import ip_address
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Final

_MAPPED: Final = bytes(10) + b"\xff\xff"


def canonical(text: str) -> str:
    """The address as the kernel's side spells it ("fd00::1" for "FD00:0::1"); "" when the text is none.

    An IPv4 address inside IPv6 (::ffff:a.b.c.d) is that IPv4 address, as for kube-proxy; the maps could not tell them
    apart.
    """
    family = AF_INET6 if ":" in text else AF_INET
    try:
        packed = inet_pton(family, text)
    except (OSError, ValueError):  # ValueError: an embedded NUL, letters that are no ASCII
        return ""
    if packed.startswith(_MAPPED):
        return inet_ntop(AF_INET, packed[len(_MAPPED) :])
    return inet_ntop(family, packed)


def callable_address(text: str) -> str:
    """The same, and "" also for addresses that must never be a frontend: unspecified, loopback, link-local, multicast.

    The API server refuses those; a folder of manifests does not. 0.0.0.0 and :: stand for NodePorts in the maps.
    """
    address = canonical(text)
    if not address:
        return ""
    value = ip_address(address)
    special = value.is_unspecified or value.is_loopback or value.is_link_local or value.is_multicast
    return "" if special or address == "255.255.255.255" else address


def family_of(address: str) -> str:
    """ "IPv4" or "IPv6", of a canonical address."""
    return "IPv6" if ":" in address else "IPv4"
