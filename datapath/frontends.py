"""The load balancer's maps seen as frontends and their backends, for those who look and change nothing.

The whole maps are walked packed (100,000 slots of 10,000 Services): only what is shown is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from datapath import bpfcall
from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_ENDPOINTS,
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_NODE_PORT,
    ADDRESS_POD,
    BACKEND_DRAINING,
    U32,
    layout,
)
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey, pack_ip
from datapath.flows import FlowCounters
from datapath.maps import Maps
from datapath.table import Number

_SLOT_AT = slice(18, 20)
_FIRST_SLOT = bytes(2)
_BACKEND = layout("backend")
_ADDRESS, _COUNTERS = layout("address"), layout("flow_counters")

ANY_NODE = frozenset({"0.0.0.0", "::"})
"""The addresses that stand for "any node's" in a NodePort's frontend."""
_FLAG_NAMES = (
    (ADDRESS_POD, "pod"),
    (ADDRESS_NODE, "node"),
    (ADDRESS_FRONTEND, "frontend"),
    (ADDRESS_CLUSTER_IP, "cluster-ip"),
    (ADDRESS_ENDPOINTS, "endpoints"),
    (ADDRESS_NODE_PORT, "node-port"),
)


class Frontend(NamedTuple):
    """What a pod calls; of a NodePort the address is "0.0.0.0" or "::"."""

    address: str
    port: int
    protocol: str

    def __str__(self) -> str:
        return f"{endpoint(self.address, self.port)}/{self.protocol}"


class State(StrEnum):
    """What a backend is to its frontend."""

    ACTIVE = "active"
    DRAINING = "draining"
    MISSING = "missing"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class FrontendView:
    """A frontend as the maps have it; `known` are the ADDRESS_* flags of its address, `counters` its flows."""

    frontend: Frontend
    entry: ServiceEntry
    draining: int
    known: int
    counters: FlowCounters

    @property
    def kind(self) -> str:
        """What sort of address it is called by: "ClusterIP", "NodePort", or "external" (externalIPs, LB addresses)."""
        if self.frontend.address in ANY_NODE:
            return "NodePort"
        return "ClusterIP" if self.known & ADDRESS_CLUSTER_IP else "external"


@dataclass(frozen=True, slots=True)
class BackendView:
    """A backend of a frontend; `slots` name it (() when it drains), `entry` is None when a slot names nothing."""

    backend_id: int
    slots: tuple[int, ...]
    entry: BackendEntry | None
    state: State


def endpoint(address: str, port: int) -> str:
    """An address and a port as one text: "10.0.0.1:80", "[fd00::1]:80"."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def flag_names(flags: int) -> str:
    """ADDRESS_* flags in words, such as "frontend, cluster-ip"; "nothing" for none."""
    return ", ".join(name for flag, name in _FLAG_NAMES if flags & flag) or "nothing"


def frontends(maps: Maps) -> list[FrontendView]:
    """All frontends, in the order of the map."""
    draining, known, counters = _draining(maps), _known(maps), _flow_counters(maps)
    found = []
    for raw_key, raw_entry in _items(maps, "services"):
        if raw_key[_SLOT_AT] != _FIRST_SLOT:
            continue
        key, entry = ServiceKey.decode(raw_key), ServiceEntry.decode(raw_entry)
        number = entry.service_id
        flags, flows = known.get(raw_key[:16], 0), counters.get(number, FlowCounters(0, 0))
        frontend = Frontend(key.address, key.port, key.protocol)
        found.append(FrontendView(frontend, entry, draining[number], flags, flows))
    return found


def frontend(maps: Maps, asked: Frontend) -> FrontendView | None:
    """One frontend; None when the maps have none. `draining` is not counted here (0): `backends` gives them."""
    entry = maps.services.get(ServiceKey(*asked, 0))
    if entry is None:
        return None
    raw = bpfcall.lookup(maps.fd("addresses"), pack_ip(asked.address), _ADDRESS.size)
    counters = maps.flow_counters.get(Number(entry.service_id)) or FlowCounters(0, 0)
    return FrontendView(asked, entry, 0, int(_ADDRESS.unpack(raw)[0]) if raw else 0, counters)


def backends(maps: Maps, views: Iterable[FrontendView]) -> dict[Frontend, tuple[BackendView, ...]]:
    """The backends of some frontends, active ones in the order of their slots, then the draining ones."""
    views = tuple(views)
    draining = _draining_of(maps, {view.entry.service_id for view in views})
    return {view.frontend: _backends(maps, view, draining.get(view.entry.service_id, {})) for view in views}


def _backends(maps: Maps, view: FrontendView, draining: Mapping[int, BackendEntry]) -> tuple[BackendView, ...]:
    slots: dict[int, list[int]] = {}
    for slot in range(1, view.entry.count + 1):
        entry = maps.services.get(ServiceKey(*view.frontend, slot))
        slots.setdefault(entry.backend_id if entry else 0, []).append(slot)
    active = [_in_slots(maps, view, number, tuple(named)) for number, named in slots.items()]
    rest = (number for number in sorted(draining) if number not in slots)
    return (*active, *(BackendView(number, (), draining[number], State.DRAINING) for number in rest))


def _in_slots(maps: Maps, view: FrontendView, number: int, slots: tuple[int, ...]) -> BackendView:
    """As open_backend of bpf/lib/service.h judges it."""
    entry = maps.backends.get(Number(number)) if number else None
    if entry is None:
        return BackendView(number, slots, None, State.MISSING)
    if entry.service_id != view.entry.service_id:
        return BackendView(number, slots, entry, State.FOREIGN)
    return BackendView(number, slots, entry, State.DRAINING if entry.flags & BACKEND_DRAINING else State.ACTIVE)


def _items(maps: Maps, name: str) -> Iterator[tuple[bytes, bytes]]:
    info = bpfcall.map_info(maps.fd(name))
    return bpfcall.items(maps.fd(name), info.key_size, info.value_size)


def _draining(maps: Maps) -> Counter[int]:
    """Draining backends by service id."""
    counts: Counter[int] = Counter()
    for _, values in maps.backends.batches():
        for _, _, flags, service_id in _BACKEND.iter_unpack(values):
            if flags & BACKEND_DRAINING:
                counts[service_id] += 1
    return counts


def _draining_of(maps: Maps, service_ids: set[int]) -> dict[int, dict[int, BackendEntry]]:
    """Draining backends of some services: by service id, then by their own."""
    found: dict[int, dict[int, BackendEntry]] = {number: {} for number in service_ids}
    for keys, values in maps.backends.batches():
        for (number,), raw in zip(U32.iter_unpack(keys), bpfcall.cut(values, _BACKEND.size), strict=True):
            _, _, flags, service_id = _BACKEND.unpack(raw)
            if flags & BACKEND_DRAINING and service_id in found:
                found[service_id][number] = BackendEntry.decode(raw)
    return found


def _known(maps: Maps) -> dict[bytes, int]:
    """ADDRESS_* flags by packed address."""
    return {raw_key: int(_ADDRESS.unpack(raw)[0]) for raw_key, raw in _items(maps, "addresses")}


def _flow_counters(maps: Maps) -> dict[int, FlowCounters]:
    found: dict[int, FlowCounters] = {}
    for keys, values in maps.flow_counters.batches():
        numbers = (number for (number,) in U32.iter_unpack(keys))
        found.update(zip(numbers, (FlowCounters(*pair) for pair in _COUNTERS.iter_unpack(values)), strict=True))
    return found
