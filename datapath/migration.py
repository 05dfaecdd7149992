"""From the maps of layout 1 (before IPv6) to those of this layout: an upgraded agent takes pods and flows over.

The holders in running pods tail-call the `calls` map they were attached with, whatever its version: the same map is
pinned again in the new folder, so that the new programs reach those pods. Everything else is copied before the
slots change, and the old folder goes. In layout 1 backends were shared by all Services; now each frontend has its own,
so every slot gets a backend of its own. A flow whose backend had left its Service keeps it as a draining one.

`converted` is pure; what it gives is untrusted input's translation and no better than that: the agent's next plan and
its restart repair what is not wanted.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from datapath import bpfcall
from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_ENDPOINTS,
    ADDRESS_FRONTEND,
    BACKEND_DRAINING,
    CT_ANSWERED,
    CT_FORWARD,
    CT_TO_SELF,
    SERVICE_NONE,
)
from datapath.entries import BackendEntry, PodEntry, ServiceEntry, ServiceKey, protocol_name, unpack_ip
from datapath.flows import Flow, Translation
from datapath.maps import Maps
from datapath.table import Number

_OLD: Final = "v1"
_TAKEN: Final = "taken_over"
_POD = struct.Struct("=6sH4s4sI")
_LOCAL_KEY, _LOCAL = struct.Struct("=16sI"), struct.Struct("=II")
_SERVICE_KEY, _SERVICE = struct.Struct("=4s2sHB3s"), struct.Struct("=IIHHI")
_BACKEND = struct.Struct("=4s2sH")
_FLOW, _CONNTRACK = struct.Struct("=4s4s2s2sBBH"), struct.Struct("=4s2s2sIIQII")
_SIZES: Final = {
    "pods": (4, _POD.size),
    "local_addresses": (_LOCAL_KEY.size, _LOCAL.size),
    "services4": (_SERVICE_KEY.size, _SERVICE.size),
    "backends4": (4, _BACKEND.size),
    "conntrack4": (_FLOW.size, _CONNTRACK.size),
}

Dump = Mapping[str, list[tuple[bytes, bytes]]]
"""Old map's name -> its packed keys and values."""


@dataclass(slots=True)
class Converted:
    """The same state in this layout."""

    pods: dict[int, PodEntry] = field(default_factory=dict)
    locals: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(address, uplink ifindex, kind, slave ifindex), as `Maps.put_local` takes them."""
    services: dict[ServiceKey, ServiceEntry] = field(default_factory=dict)
    backends: dict[int, BackendEntry] = field(default_factory=dict)
    conntrack: dict[Flow, Translation] = field(default_factory=dict)


def converted(dump: Dump) -> Converted:
    """Translate everything; what makes no sense (a slot without a backend) is left out."""
    new = Converted()
    for key, value in dump["pods"]:
        mac, flags, addr4, mask4, uplink = _POD.unpack(value)
        four = socket.inet_ntoa(addr4), socket.inet_ntoa(mask4)
        new.pods[struct.unpack("=I", key)[0]] = PodEntry(mac.hex(":"), flags, *four, uplink)
    for key, value in dump["local_addresses"]:
        packed, uplink = _LOCAL_KEY.unpack(key)
        kind, slave = _LOCAL.unpack(value)
        new.locals.append((unpack_ip(packed), uplink, kind, slave))
    _convert_flows(dump, new, _convert_services(dump, new))
    return new


def _convert_services(dump: Dump, new: Converted) -> dict[tuple[int, int], int]:
    """Services and backends; gives (service id, old backend id) -> new backend id."""
    old = {struct.unpack("=I", key)[0]: _BACKEND.unpack(value) for key, value in dump["backends4"]}
    masters: dict[tuple[str, int, str], ServiceEntry] = {}
    slots: list[tuple[tuple[str, int, str], int, int]] = []
    for key, value in dump["services4"]:
        addr, port, slot, proto, _ = _SERVICE_KEY.unpack(key)
        entry = ServiceEntry(*_SERVICE.unpack(value))
        frontend = socket.inet_ntoa(addr), int.from_bytes(port, "big"), protocol_name(proto)
        if slot:
            slots.append((frontend, slot, entry.backend_id))
        else:
            masters[frontend] = entry
            new.services[ServiceKey(*frontend, 0)] = entry
    ids: dict[tuple[int, int], int] = {}
    last = 0
    for frontend, slot, old_id in slots:
        master = masters.get(frontend)
        if master is None or old_id not in old:
            continue
        last += 1
        addr, port, _ = old[old_id]
        address = socket.inet_ntoa(addr), int.from_bytes(port, "big")
        new.backends[last] = BackendEntry(*address, master.service_id)
        new.services[ServiceKey(*frontend, slot)] = ServiceEntry(backend_id=last)
        ids[master.service_id, old_id] = last
    return ids


def _convert_flows(dump: Dump, new: Converted, ids: dict[tuple[int, int], int]) -> None:
    last = max(new.backends, default=0)
    known = {entry.service_id for key, entry in new.services.items() if not key.slot}
    for flow, entry in sorted(_flows(dump), key=lambda item: item[0].direction):  # forward ones name their backend
        pair = entry.service_id, entry.backend_id
        backend_id = ids.get(pair, 0)
        if not backend_id and flow.direction == CT_FORWARD and entry.service_id in known:
            last += 1
            backend_id = ids[pair] = last
            new.backends[last] = BackendEntry(entry.address, entry.port, entry.service_id, BACKEND_DRAINING)
        if not backend_id and entry.service_id != SERVICE_NONE:
            continue
        flags = entry.flags | CT_ANSWERED
        if flow.direction == CT_FORWARD:
            flags = CT_TO_SELF if entry.address == flow.source else 0
        name = entry.address, entry.port, entry.client_port, entry.service_id
        new.conntrack[flow] = Translation(*name, backend_id, entry.last_seen_ns, flags)


def _flows(dump: Dump) -> Iterator[tuple[Flow, Translation]]:
    for key, value in dump["conntrack4"]:
        saddr, daddr, sport, dport, proto, direction, _ = _FLOW.unpack(key)
        ends = [(socket.inet_ntoa(ip), int.from_bytes(port, "big")) for ip, port in ((saddr, sport), (daddr, dport))]
        addr, port, client_port, service_id, backend_id, seen, flags, _ = _CONNTRACK.unpack(value)
        name = socket.inet_ntoa(addr), int.from_bytes(port, "big"), int.from_bytes(client_port, "big")
        yield (
            Flow(*ends[0], *ends[1], protocol_name(proto), direction),
            Translation(*name, service_id, backend_id, seen, flags),
        )


def share_calls(bpf_root: Path, maps: Path) -> None:
    """Pin the old layout's `calls` in the new folder, before maps are made there and before the old folder goes.

    Where the new folder has its own already, an old agent has run in between: its pods have other holders than ours,
    and a prog array forgets its programs with its last pin.
    """
    old, pin = bpf_root / _OLD / "maps" / "calls", maps / "calls"
    if not old.exists():
        return
    fd = bpfcall.obj_get(old)
    try:
        number = bpfcall.map_info(fd).map_id
        if number not in {bpfcall.map_info(known).map_id for known in _opened(maps)}:
            bpfcall.obj_pin(fd, maps / f"calls_{number}" if pin.exists() else pin)
    finally:
        os.close(fd)


def fill_slots(maps: Path, programs: Mapping[int, int]) -> None:
    """Put programs (slot -> descriptor) into every `calls` that pods may have been wired with."""
    for fd in _opened(maps):
        for slot, program in programs.items():
            bpfcall.update(fd, struct.pack("=I", slot), struct.pack("=I", program))


def _opened(maps: Path) -> Iterator[int]:
    """Each pinned `calls`, open until the next one is asked for."""
    for pin in sorted(maps.glob("calls*")):
        fd = bpfcall.obj_get(pin)
        try:
            yield fd
        finally:
            os.close(fd)


def take_over(bpf_root: Path) -> bool:
    """Copy what the old layout's maps hold, then remove them; whether there was anything. Before the slots change.

    Killed midway, the next start copies all of it again: the folder loses its name at once, and its content only then.
    """
    folder, taken = bpf_root / _OLD, bpf_root / _TAKEN
    if taken.exists():
        _remove(taken)
    if not folder.exists():
        return False
    dump = {name: _dump(folder / "maps" / name, sizes) for name, sizes in _SIZES.items()}
    with Maps(bpf_root) as maps:
        _write(converted(dump), maps)
    folder.rename(taken)
    _remove(taken)
    return True


def _dump(pin: Path, sizes: tuple[int, int]) -> list[tuple[bytes, bytes]]:
    try:
        fd = bpfcall.obj_get(pin)
    except FileNotFoundError:
        return []
    try:
        info = bpfcall.map_info(fd)
        if (info.key_size, info.value_size) != sizes:  # reading it would write past our buffers
            return []
        return list(bpfcall.items(fd, *sizes))
    finally:
        os.close(fd)


def _write(new: Converted, maps: Maps) -> None:
    for ifindex, pod in new.pods.items():
        maps.put_pod(ifindex, pod)
    for local in new.locals:
        maps.put_local(*local)
    maps.backends.put_many([(Number(number), entry) for number, entry in new.backends.items()])
    maps.services.put_many(sorted(new.services.items(), key=lambda item: -item[0].slot))
    for key, entry in new.services.items():
        if not key.slot:
            known = ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP | (ADDRESS_ENDPOINTS if entry.count else 0)
            maps.mark_address(key.address, known, known)
    maps.conntrack.put_many(list(new.conntrack.items()))


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            _remove(path)
        else:
            path.unlink()
    folder.rmdir()
