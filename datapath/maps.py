"""The pinned maps as typed verbs; most are tables (datapath/table.py), some have rules of their own.

`addresses` has three writers, each with its own flags: wiring (pods), uplinks (the node), service_sync (Services). What
one knows of an address must survive what another writes: one lock, and read, change, write.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from datapath import bpfcall
from datapath.abi import (
    ABI_VERSION,
    ADDRESS_NODE,
    ADDRESS_POD,
    BACKEND_DRAINING,
    MAPS,
    POD_DIRECT_NAT,
    U32,
    U64,
    Verdict,
)
from datapath.columns import columns
from datapath.entries import (
    AddressEntry,
    BackendEntry,
    Ip,
    LocalEntry,
    LocalKey,
    PodEntry,
    ServiceEntry,
    ServiceKey,
    pack_ip,
    protocol_name,
)
from datapath.flows import Affinity, AffinityKey, Flow, FlowCounters, SocketKey, SocketPeer, Translation
from datapath.table import Cookie, Entry, Number, Table

_PEER_BACKEND, _KEY_PROTO = columns("socket_peer", "backend_id"), columns("socket_key", "proto")

K = TypeVar("K", bound=Entry)
V = TypeVar("V", bound=Entry)


def maps_folder(bpf_root: Path) -> Path:
    """Give the folder of bpffs where the maps of this layout are pinned."""
    return bpf_root / f"v{ABI_VERSION}" / "maps"


def _possible_cpus() -> int:
    """Count of possible CPUs: a per-CPU map has one value for each (/sys/devices/system/cpu/possible: "0-3,8")."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").rsplit("-", 1)[-1]
    return int(last) + 1


class Maps:
    """The maps pinned below `bpf_root`. Raises FileNotFoundError when datapath.loader has not made them yet."""

    def __init__(self, bpf_root: Path) -> None:
        folder = maps_folder(bpf_root)
        self._fds: dict[str, int] = {}
        try:
            for spec in MAPS:
                self._fds[spec.name] = bpfcall.obj_get(folder / spec.name)
        except OSError:
            self.close()
            raise
        self._cpus = _possible_cpus()
        self._addresses_lock = threading.Lock()
        self._pods = self._table("pods", Number, PodEntry)
        self._addresses = self._table("addresses", Ip, AddressEntry)
        self.services = self._table("services", ServiceKey, ServiceEntry)
        self.backends = self._table("backends", Number, BackendEntry)
        self.conntrack = self._table("conntrack", Flow, Translation)
        self.affinity = self._table("affinity", AffinityKey, Affinity)
        self.flow_counters = self._table("flow_counters", Number, FlowCounters)
        self.netns_pods = self._table("netns_pods", Cookie, Number)
        self.socket_backends = self._table("socket_backends", SocketKey, SocketPeer)
        self.socket_frontends = self._table("socket_frontends", SocketKey, SocketPeer)

    def _table(self, name: str, key: type[K], value: type[V]) -> Table[K, V]:
        spec = next(spec for spec in MAPS if spec.name == name)
        return Table(self._fds[name], spec, key, value)

    def close(self) -> None:
        """Close the descriptors; the maps stay pinned."""
        while self._fds:
            _, fd = self._fds.popitem()
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fd(self, name: str) -> int:
        """Give the descriptor of a map by its name in abi.MAPS; it stays owned by this object."""
        return self._fds[name]

    def put_pod(self, ifindex: int, entry: PodEntry) -> None:
        """Make the slave `ifindex` a known pod: from here on from_pod acts on its packets."""
        before = self._pods.get(Number(ifindex))
        if before is not None:  # written again by a restarted agent: what from_pod noted about the pod's flows stays
            entry = replace(entry, flags=entry.flags | before.flags & POD_DIRECT_NAT)
        self._pods.put(Number(ifindex), entry)

    def delete_pod(self, ifindex: int) -> None:
        """Forget the slave: its packets pass untouched."""
        self._pods.delete(Number(ifindex))

    def pods(self) -> dict[int, PodEntry]:
        """Give all pods by slave ifindex."""
        return {key.number: entry for key, entry in self._pods.items()}

    def put_local(self, address: str, uplink_ifindex: int, kind: int, slave_ifindex: int = 0) -> None:
        """Say that `address` is on this node: ADDRESS_POD behind an uplink, or ADDRESS_NODE (uplink_ifindex 0)."""

        def change(entry: AddressEntry) -> AddressEntry:
            if kind == ADDRESS_NODE:
                return replace(entry, flags=entry.flags | kind)
            return AddressEntry(entry.flags | kind, uplink_ifindex, slave_ifindex)

        self._change(address, change)

    def delete_local(self, address: str, uplink_ifindex: int) -> None:
        """Forget a local address: the node's (uplink_ifindex 0), or a pod's if it is behind that uplink.

        A pod's behind no uplink, as only a stranger writes it, goes with the node's.
        """

        def change(entry: AddressEntry) -> AddressEntry:
            if not uplink_ifindex:
                gone = ADDRESS_NODE if entry.uplink_ifindex else ADDRESS_NODE | ADDRESS_POD
                return replace(entry, flags=entry.flags & ~gone)
            return AddressEntry(entry.flags & ~ADDRESS_POD) if entry.uplink_ifindex == uplink_ifindex else entry

        self._change(address, change)

    def locals(self) -> dict[LocalKey, LocalEntry]:
        """Give all local addresses."""
        found: dict[LocalKey, LocalEntry] = {}
        for key, entry in self._addresses.items():
            if entry.flags & ADDRESS_POD:
                found[LocalKey(key.address, entry.uplink_ifindex)] = LocalEntry(ADDRESS_POD, entry.slave_ifindex)
            if entry.flags & ADDRESS_NODE:
                found[LocalKey(key.address, 0)] = LocalEntry(ADDRESS_NODE, 0)
        return found

    def mark_address(self, address: str, mask: int, flags: int) -> None:
        """Make the ADDRESS_* bits in `mask` be those in `flags`; an address with no bit left is forgotten."""
        self._change(address, lambda entry: replace(entry, flags=entry.flags & ~mask | flags & mask))

    def address(self, address: str) -> AddressEntry | None:
        """Give what is known of one address."""
        return self._addresses.get(Ip(address))

    def addresses(self) -> dict[str, AddressEntry]:
        """Give all that is known of addresses."""
        return {key.address: entry for key, entry in self._addresses.items()}

    def _change(self, address: str, change: Callable[[AddressEntry], AddressEntry]) -> None:
        key = Ip(address)
        with self._addresses_lock:
            before = self._addresses.get(key)
            after = change(before or AddressEntry(0))
            if not after.flags:
                self._addresses.delete(key)
            elif after != before:
                self._addresses.put(key, after)

    def forget_netns(self, ifindex: int) -> None:
        """Forget the netns that has this slave: its sockets are nobody's."""
        for cookie, slave in list(self.netns_pods.items()):
            if slave.number == ifindex:
                self.netns_pods.delete(cookie)

    def sockets_of(self, backend_ids: set[int]) -> Iterator[tuple[SocketKey, SocketPeer]]:
        """Walk the destinations that sockets have, or had, at these backends."""
        key_size, value_size = self.socket_frontends.sizes
        for keys, values in self.socket_frontends.batches():
            for place, (number,) in enumerate(_PEER_BACKEND.iter_unpack(values)):
                if number in backend_ids:
                    key = keys[place * key_size : (place + 1) * key_size]
                    value = values[place * value_size : (place + 1) * value_size]
                    yield SocketKey.decode(key), SocketPeer.decode(value)

    def lost_backends(self) -> set[tuple[int, str]]:
        """(id, protocol) of backends that sockets have, or had, and that take no such sockets any more."""
        named: set[tuple[int, str]] = set()
        for keys, values in self.socket_frontends.batches():
            pairs = zip(_PEER_BACKEND.iter_unpack(values), _KEY_PROTO.iter_unpack(keys), strict=True)
            named.update((number, protocol_name(proto)) for (number,), (proto,) in pairs)
        alive = {number: self.backends.get(Number(number)) for number, _ in named}

        def lost(number: int, protocol: str) -> bool:
            entry = alive[number]
            return entry is None or (protocol == "UDP" and bool(entry.flags & BACKEND_DRAINING))

        return {one for one in named if lost(*one)}

    def forget_socket(self, key: SocketKey) -> None:
        """Forget what a socket called its peer."""
        self.socket_frontends.delete(key)

    def forget(self, addresses: set[str]) -> int:
        """Delete every conntrack entry with one of `addresses` as source, destination or backend; give the count."""
        wanted = {pack_ip(address) for address in addresses}
        gone: list[bytes] = []
        key_size, value_size = self.conntrack.sizes
        for keys, values in self.conntrack.batches():
            # On raw bytes, a thousand entries at a glance: a full table would take seconds otherwise.
            if not any(address in keys or address in values for address in wanted):
                continue
            for key, value in zip(bpfcall.cut(keys, key_size), bpfcall.cut(values, value_size), strict=True):
                if not wanted.isdisjoint((key[:16], key[16:32], value[:16])):  # saddr, daddr; addr
                    gone.append(key)
        bpfcall.delete_batch(self.conntrack.fd, b"".join(gone), key_size)
        return len(gone)

    def counters(self) -> dict[Verdict, int]:
        """Give packets by verdict since the maps were made, summed over CPUs."""
        totals: dict[Verdict, int] = {}
        for verdict in Verdict:
            raw = bpfcall.lookup(self._fds["counters"], U32.pack(verdict), U64.size * self._cpus)
            totals[verdict] = sum(number for (number,) in U64.iter_unpack(raw or b""))
        return totals

    def set_call(self, slot: int, program_fd: int) -> None:
        """Put a program into a slot of `calls`: every holder in every pod runs it from the next packet on."""
        bpfcall.update(self._fds["calls"], U32.pack(slot), U32.pack(program_fd))

    def empty_calls(self, slots: Iterable[int]) -> list[int]:
        """Give those of the slots of `calls` that hold no program."""
        return [slot for slot in slots if bpfcall.lookup(self._fds["calls"], U32.pack(slot), U32.size) is None]

    def clear_call(self, slot: int) -> None:
        """Empty a slot of `calls`: the holders let packets pass."""
        bpfcall.delete(self._fds["calls"], U32.pack(slot))
