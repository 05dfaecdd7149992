"""What `dragline conntrack` and `dragline drops` are told, from the live maps."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from agent import control, flow_texts, pod_names, service_asked, service_names, threads
from agent.node import Node
from agent.pod_names import UnknownName
from agent.service_names import Names
from datapath import flow_pairs, verdicts
from datapath.abi import BACKEND_DRAINING
from datapath.entries import BackendEntry, pack_ip
from datapath.flow_pairs import Found, Packed, Pair, Wanted
from datapath.frontends import ANY_NODE, Frontend, endpoint
from datapath.maps import Maps
from datapath.table import Number

UNKNOWN = "-"


class Arguments(msgspec.Struct, frozen=True):
    """Filters, "" for none: `pod` and `service` as people name them; `limit` rows at most, 0 for all."""

    pod: str = ""
    service: str = ""
    limit: int = 0


class Shown(NamedTuple):
    """What is shown besides the flows: names of pods by address, and whether sockets are balanced."""

    pods: Mapping[str, str]
    socket_lb: str


async def conntrack(node: Node, arguments: bytes) -> bytes:
    """JSON: a row a flow, how many flows were meant, how full the table is."""
    asked = control.arguments_of(arguments, Arguments)
    attachments = node.ledger.attachments()
    offers, pods = node.services.offers(), pod_names.by_address(attachments)

    def job() -> bytes:
        names = service_names.ordered(offers)
        clients = None
        if asked.pod:
            leases = [lease for one in pod_names.find(attachments, asked.pod) for lease in one.leases]
            clients = frozenset(pack_ip(lease.ip) for lease in leases)
        wanted = Wanted(clients, _frontends(asked.service, names))
        return _flows(node.maps, wanted, asked.limit, Shown(pods, node.socket_lb))

    try:
        return await threads.run(job)
    except (UnknownName, ValueError) as error:
        raise control.refusal(str(error)) from error


def _frontends(service: str, names: Names) -> frozenset[bytes] | None:
    """The packed frontends that a --service means; one given by address and port need not be known."""
    if not service:
        return None
    asked = service_asked.parse(service)
    meant = service_names.frontends_of(asked, names)
    if asked.is_address and asked.port and not meant:
        protocols = (asked.protocol,) if asked.protocol else service_asked.PROTOCOLS
        meant = [Frontend(asked.name, asked.port, protocol) for protocol in protocols]
    return frozenset(flow_pairs.packed_frontend(*one) for one in meant if one.address not in ANY_NODE)


def _flows(maps: Maps, wanted: Wanted, limit: int, shown: Shown) -> bytes:
    entries = flow_pairs.snapshot(maps.conntrack.batches())
    found = list(flow_pairs.find(entries, wanted))
    head = {
        "matching": len(found),
        "entries": len(entries),
        "capacity": maps.conntrack.capacity,
        "socket_lb": shown.socket_lb,
    }
    # The first ones, not any: who looks twice sees the same flows.
    chosen = heapq.nsmallest(limit, found) if limit else found
    return control.answer_with_rows(head, "flows", _rows(maps, entries, chosen, shown.pods))


def _rows(maps: Maps, entries: Packed, chosen: Iterable[Found], pods: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    now = time.monotonic_ns()
    backends: dict[int, BackendEntry | None] = {}
    for one in chosen:
        pair = flow_pairs.pair(entries, one)
        if pair.backend_id not in backends:
            backends[pair.backend_id] = maps.backends.get(Number(pair.backend_id))
        yield _row(pair, pods, now) | {"backend_state": _backend_state(pair, backends[pair.backend_id])}


def _row(pair: Pair, pods: Mapping[str, str], now_ns: int) -> dict[str, Any]:
    client = pair.client
    return {
        "pod": pods.get(client.address, UNKNOWN),
        "protocol": client.protocol,
        "client": endpoint(client.address, client.port),
        "frontend": endpoint(client.frontend, client.frontend_port),
        "backend": endpoint(pair.backend, pair.backend_port),
        "direct": pair.direct,
        "state": flow_texts.state_of(pair),
        "idle_s": None if pair.last_seen_ns is None else round(max(0, now_ns - pair.last_seen_ns) / 1e9, 1),
        "source_port": pair.source_port,
        "source_port_changed": pair.source_port != client.port,
        "lost": pair.lost,
        "service_id": pair.service_id,
        "backend_id": pair.backend_id,
    }


def _backend_state(pair: Pair, entry: BackendEntry | None) -> str:
    """ "active", "draining", "removed"; of a direct flow ""."""
    if pair.direct:
        return ""
    if entry is None or (entry.address, entry.port) != (pair.backend, pair.backend_port):
        return "removed"
    return "draining" if entry.flags & BACKEND_DRAINING else "active"


async def drops(node: Node, arguments: bytes) -> bytes:
    """JSON: a row a verdict, whether or not it was ever given."""
    del arguments

    def job() -> bytes:
        counters = node.maps.counters()
        return control.answer(
            [
                {
                    "number": reason.number,
                    "kind": reason.kind,
                    "name": reason.name,
                    "packets": counters[verdict],
                    "meaning": reason.meaning,
                    "retired": reason.retired,
                }
                for verdict, reason in verdicts.read().items()
            ]
        )

    return await threads.run(job)
