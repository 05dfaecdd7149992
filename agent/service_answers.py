"""What `dragline services` is told: the live maps are the truth, the store only gives names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from agent import control, pod_names, service_asked, service_names, threads
from agent.node import Node
from agent.pod_names import UnknownName
from agent.service_asked import Asked
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


async def services(node: Node, arguments: bytes) -> bytes:
    """JSON: a row a frontend; for one Service with its backends."""
    asked = control.arguments_of(arguments, Arguments)
    offers = node.services.offers()
    pods = pod_names.by_address(node.ledger.attachments())

    def job() -> bytes:
        names = service_names.ordered(offers)
        if not asked.service:
            return control.answer_with_rows({"socket_lb": node.socket_lb}, "frontends", _all(node.maps, names))
        found = _one(node.maps, names, pods, asked.service)
        return control.answer(found | {"socket_lb": node.socket_lb})

    try:
        return await threads.run(job)
    except (UnknownName, ValueError) as error:
        raise control.refusal(str(error)) from error


def _all(maps: Maps, names: Names) -> Iterator[dict[str, Any]]:
    """By name; those that the store does not know come last."""
    order = {frontend: number for number, frontend in enumerate(sorted(names, key=lambda one: (names[one], one)))}
    found = [(order.get(view.frontend, len(order)), view.frontend, view) for view in frontends.frontends(maps)]
    yield from (_row(view, names) for _, _, view in sorted(found, key=lambda one: one[:2]))


def _one(maps: Maps, names: Names, pods: Mapping[str, str], service: str) -> dict[str, Any]:
    views = _views(maps, service_asked.parse(service), names)
    if not views:
        raise UnknownName(f"{service} has no frontend in the maps; `dragline services` lists those that have one")
    flows = flow_pairs.count_by_backend(flow_pairs.snapshot(maps.conntrack.batches()))
    rows = []
    for frontend, backends in frontends.backends(maps, views).items():
        view = next(one for one in views if one.frontend == frontend)
        own = [_backend(one, maps, pods, flows) for one in backends]
        rows.append(_row(view, names) | {"draining": sum(not one["slots"] for one in own), "of": own})
    return {"frontends": sorted(rows, key=lambda row: (row["kind"], row["frontend"]))}


def _views(maps: Maps, asked: Asked, names: Names) -> list[FrontendView]:
    """Those of the store; by address also those that only the maps have."""
    if asked.is_address:
        found = [one for one in frontends.frontends(maps) if one.frontend.address == asked.name]
        fits = [one for one in found if asked.port in (0, one.frontend.port)]
        return [one for one in fits if asked.protocol in ("", one.frontend.protocol)]
    read = (frontends.frontend(maps, one) for one in service_names.frontends_of(asked, names))
    return [one for one in read if one is not None]


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


def _backend(one: BackendView, maps: Maps, pods: Mapping[str, str], flows: Mapping[int, int]) -> dict[str, Any]:
    return {
        "backend": frontends.endpoint(one.entry.address, one.entry.port) if one.entry else UNKNOWN,
        "state": str(one.state),
        "where": _where(one.entry.address, maps, pods) if one.entry else UNKNOWN,
        "id": one.backend_id,
        "slots": list(one.slots),
        "flows": flows.get(one.backend_id, 0),
    }


def _where(address: str, maps: Maps, pods: Mapping[str, str]) -> str:
    """ "pod ns/name", "node", or "remote"."""
    known = maps.address(address)
    flags = known.flags if known else 0
    if flags & ADDRESS_POD:
        return f"pod {pods.get(address, '?')}"
    return "node" if flags & ADDRESS_NODE else "remote"
