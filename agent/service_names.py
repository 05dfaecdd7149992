"""From the names people use for Services to the frontends that are meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.pod_names import UnknownName
from agent.service_asked import PROTOCOLS, Asked
from cluster import services
from datapath.frontends import ANY_NODE, Frontend

_EXAMPLES = 8


Names = Mapping[Frontend, str]
"""The Service ("ns/name") of every frontend that the store has."""


def choose(asked: Asked, names: Names, namespace: str, families: Iterable[int]) -> Frontend:
    """The one frontend that a pod of that namespace means.

    Of a Service's frontends the ClusterIP's (they come first in `names`) of the first of the pod's families; a port
    that the Service does not have is taken as asked: that is a thing to trace too. Raises UnknownName.
    """
    if asked.is_address:
        mine = [one for one in names if one.address == asked.name]
        address = asked.name
    else:
        mine = of_service(service_named(asked.name, names, namespace), names)
        mine = [one for one in mine if one.address not in ANY_NODE]
        address = _address_for(mine, families)
        mine = [one for one in mine if one.address == address]
    fitting = [one for one in mine if asked.port in (0, one.port) and asked.protocol in ("", one.protocol)]
    if len(fitting) == 1 or (fitting and asked.port):
        return min(fitting, key=lambda one: PROTOCOLS.index(one.protocol))
    if asked.port:
        return Frontend(address, asked.port, asked.protocol or "TCP")
    ports = ", ".join(f":{one.port}/{one.protocol}" for one in mine)
    raise UnknownName(f"{asked.name} has {ports or 'no frontend here'}: say which port")


def ordered(offers: Mapping[services.Frontend, services.Offer]) -> Names:
    """The names of all frontends, ClusterIPs first."""
    found = sorted(offers.items(), key=lambda item: (not item[1].cluster_ip, item[0]))
    return {Frontend(*frontend): offer.service for frontend, offer in found}


def frontends_of(asked: Asked, names: Names) -> list[Frontend]:
    """All frontends that are meant, of a Service of namespace "default" if no other is said. Raises UnknownName."""
    if asked.is_address:
        mine = [one for one in names if one.address == asked.name]
    else:
        mine = of_service(service_named(asked.name, names, "default"), names)
    return [one for one in mine if asked.port in (0, one.port) and asked.protocol in ("", one.protocol)]


def service_named(asked: str, names: Names, namespace: str) -> str:
    """The Service "ns/name"; a bare name is looked for in `namespace`, then in "default". Raises UnknownName."""
    known = set(names.values())
    readings = (asked,) if "/" in asked else tuple(dict.fromkeys((f"{namespace}/{asked}", f"default/{asked}")))
    for name in readings:
        if name in known:
            return name
    elsewhere = sorted(name for name in known if name.rpartition("/")[2] == asked.rpartition("/")[2])
    if elsewhere:
        raise UnknownName(f"no Service {' or '.join(readings)}; there is {', '.join(elsewhere[:_EXAMPLES])}")
    told = "headless and ExternalName Services have no frontend; `dragline services` lists those that have one"
    raise UnknownName(f"no Service {' or '.join(readings)} has a frontend: {told}")


def of_service(service: str, names: Names) -> list[Frontend]:
    """The frontends of a Service, in the order of `names`."""
    return [frontend for frontend, name in names.items() if name == service]


def _address_for(frontends: Iterable[Frontend], families: Iterable[int]) -> str:
    addresses = list(dict.fromkeys(one.address for one in frontends))
    for family in families:
        for address in addresses:
            if (":" in address) == (family == 6):
                return address
    raise UnknownName(f"the pod has no address of the family of {', '.join(addresses) or 'any frontend'}")
