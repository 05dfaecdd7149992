"""What `dragline services` is told: the live maps are the truth, the store only gives names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from agent import control, pod_names, service_asked, service_names, threads
from agent.node import Node
from agent.pod_names import UnknownName
from agent.service_names import Names
from datapath import flow_pairs, frontends
from datapath.abi import ADDRESS_NODE, ADDRESS_POD
from datapath.frontends import BackendView, FrontendView
from datapath.maps import Maps

UNKNOWN = "-"
"""The name of a frontend that the store does not have (any more): adopted, or just being removed."""


class Arguments(msgspec.Struct, frozen=True):
    """`service`: "ns/name", "name" (of namespace default) or an address, each perhaps with ":PORT"; "" for all."""

    service: str = ""


@dataclass(frozen=True, slots=True)
class Where:
    """Names for the addresses of backends."""

    pods: Mapping[str, str]
    known: Mapping[str, int]

    def of(self, address: str) -> str:
        """ "pod ns/name", "node", or "remote"."""
        flags = self.known.get(address, 0)
        if flags & ADDRESS_POD:
            return f"pod {self.pods.get(address, '?')}"
        return "node" if flags & ADDRESS_NODE else "remote"


async def services(node: Node, arguments: bytes) -> bytes:
    """JSON: a row a frontend; for one Service with its backends."""
    asked = control.arguments_of(arguments, Arguments)
    offers = node.services.offers()
    pods = pod_names.by_address(node.ledger.attachments())

    def job() -> bytes:
        names = service_names.ordered(offers)
        if not asked.service:
            return control.answer(_all(node.maps, names))
        found = _one(node.maps, names, pods, asked.service)
        return control.answer(found | {"socket_lb": node.socket_lb})

    try:
        return await threads.run(job)
    except (UnknownName, ValueError) as error:
        raise control.refusal(str(error)) from error


def _all(maps: Maps, names: Names) -> dict[str, Any]:
    rows = [_row(view, names) for view in frontends.frontends(maps)]
    return {"frontends": sorted(rows, key=lambda row: (row["service"] == UNKNOWN, row["service"], row["frontend"]))}


def _one(maps: Maps, names: Names, pods: Mapping[str, str], service: str) -> dict[str, Any]:
    wanted = set(service_names.frontends_of(service_asked.parse(service), names))
    views = [view for view in frontends.frontends(maps) if _is_meant(view, wanted, service)]
    if not views:
        raise UnknownName(f"{service} has no frontend in the maps; `dragline services` lists those that have one")
    by_frontend = frontends.backends(maps, views)
    flows = flow_pairs.count_by_backend(flow_pairs.snapshot(maps.conntrack.batches()))
    where = Where(pods, {address: entry.flags for address, entry in maps.addresses().items()})
    backend = partial(_backend, where=where, flows=flows)
    rows = [_row(view, names) | {"of": [backend(one) for one in by_frontend[view.frontend]]} for view in views]
    return {"frontends": sorted(rows, key=lambda row: (row["kind"], row["frontend"]))}


def _is_meant(view: FrontendView, wanted: set[frontends.Frontend], asked: str) -> bool:
    """Those of the store, and by address also those that only the maps have."""
    parsed = service_asked.parse(asked)
    if not parsed.is_address:
        return view.frontend in wanted
    return view.frontend.address == parsed.name and parsed.port in (0, view.frontend.port)


def _row(view: FrontendView, names: Names) -> dict[str, Any]:
    return {
        "service": names.get(view.frontend, UNKNOWN),
        "frontend": str(view.frontend),
        "kind": view.kind,
        "affinity_s": view.entry.affinity_s,
        "id": view.entry.service_id,
        "backends": view.entry.count,
        "draining": view.draining,
        "opened": view.counters.opened,
        "refused": view.counters.refused,
    }


def _backend(one: BackendView, where: Where, flows: Mapping[int, int]) -> dict[str, Any]:
    return {
        "backend": frontends.endpoint(one.entry.address, one.entry.port) if one.entry else UNKNOWN,
        "state": str(one.state),
        "where": where.of(one.entry.address) if one.entry else UNKNOWN,
        "id": one.backend_id,
        "slots": list(one.slots),
        "flows": flows.get(one.backend_id, 0),
    }
