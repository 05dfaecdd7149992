"""The pinned maps as typed verbs: dataclasses of datapath/entries.py in and out, bpf(2) below (datapath/bpfcall.py).

Every verb is one system call (a few microseconds), safe from any thread, and idempotent: put replaces, delete of
nothing is fine. A pinned map is untrusted input: an entry that our encoder would not write so is dropped when met.
"""

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

from datapath import bpfcall
from datapath.abi import ABI_VERSION, MAPS, POD_DIRECT_NAT, U32, U64, MapSpec, Verdict
from datapath.entries import BackendEntry, Flow, LocalEntry, LocalKey, PodEntry, ServiceEntry, ServiceKey, Translation

__all__ = [
    "BackendEntry",
    "Flow",
    "LocalEntry",
    "LocalKey",
    "Maps",
    "PodEntry",
    "ServiceEntry",
    "ServiceKey",
    "Translation",
    "maps_folder",
]


class _Encodes(Protocol):
    def encode(self) -> bytes: ...


K = TypeVar("K", bound=_Encodes)
V = TypeVar("V", bound=_Encodes)


def maps_folder(bpf_root: Path) -> Path:
    """Give the folder of bpffs where the maps of this layout are pinned."""
    return bpf_root / f"v{ABI_VERSION}" / "maps"


def _possible_cpus() -> int:
    """Count of possible CPUs: a per-CPU map has one value for each (/sys/devices/system/cpu/possible: "0-3,8")."""
    last = Path("/sys/devices/system/cpu/possible").read_text().strip().replace(",", "-").rsplit("-", 1)[-1]
    return int(last) + 1


class _Id:
    """A u32 key (ifindex, backend id)."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def encode(self) -> bytes:
        return U32.pack(self.number)

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        return cls(*U32.unpack(raw))


class Maps:
    """The maps pinned below `bpf_root`. Raises FileNotFoundError when datapath.loader has not made them yet."""

    def __init__(self, bpf_root: Path) -> None:
        folder = maps_folder(bpf_root)
        self._specs: dict[str, MapSpec] = {spec.name: spec for spec in MAPS}
        self._fds: dict[str, int] = {}
        try:
            for spec in MAPS:
                self._fds[spec.name] = bpfcall.obj_get(folder / spec.name)
        except OSError:
            self.close()
            raise
        self._cpus = _possible_cpus()

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

    def _dump(self, name: str, key: Callable[[bytes], K], value: Callable[[bytes], V]) -> Iterator[tuple[K, V]]:
        """Walk a map; what our encoder would not have written so (foreign padding, say) is deleted and left out."""
        spec, fd = self._specs[name], self._fds[name]
        for raw_key, raw_value in bpfcall.items(fd, spec.key_size, spec.value_size):
            found, entry = key(raw_key), value(raw_value)
            if found.encode() == raw_key and entry.encode() == raw_value:
                yield found, entry
            else:
                bpfcall.delete(fd, raw_key)

    def put_pod(self, ifindex: int, entry: PodEntry) -> None:
        """Make the slave `ifindex` a known pod: from here on from_pod acts on its packets."""
        fd, key = self._fds["pods"], U32.pack(ifindex)
        before = bpfcall.lookup(fd, key, self._specs["pods"].value_size)
        if before is not None:  # written again by a restarted agent: what from_pod noted about the pod's flows stays
            entry = replace(entry, flags=entry.flags | PodEntry.decode(before).flags & POD_DIRECT_NAT)
        bpfcall.update(fd, key, entry.encode())

    def delete_pod(self, ifindex: int) -> None:
        """Forget the slave: its packets pass untouched."""
        bpfcall.delete(self._fds["pods"], U32.pack(ifindex))

    def pods(self) -> dict[int, PodEntry]:
        """Give all pods by slave ifindex."""
        return {key.number: entry for key, entry in self._dump("pods", _Id.decode, PodEntry.decode)}

    def put_local(self, address: str, uplink_ifindex: int, kind: int, slave_ifindex: int = 0) -> None:
        """Say that `address` is on this node: LOCAL_POD behind an uplink, or LOCAL_NODE (uplink_ifindex 0)."""
        key = LocalKey(address, uplink_ifindex).encode()
        bpfcall.update(self._fds["local_addresses"], key, LocalEntry(kind, slave_ifindex).encode())

    def delete_local(self, address: str, uplink_ifindex: int) -> None:
        """Forget a local address."""
        bpfcall.delete(self._fds["local_addresses"], LocalKey(address, uplink_ifindex).encode())

    def locals(self) -> dict[LocalKey, LocalEntry]:
        """Give all local addresses."""
        return dict(self._dump("local_addresses", LocalKey.decode, LocalEntry.decode))

    def put_service(self, key: ServiceKey, entry: ServiceEntry) -> None:
        """Write one slot of a service."""
        bpfcall.update(self._fds["services4"], key.encode(), entry.encode())

    def delete_service(self, key: ServiceKey) -> None:
        """Delete one slot of a service."""
        bpfcall.delete(self._fds["services4"], key.encode())

    def services(self) -> dict[ServiceKey, ServiceEntry]:
        """Give all slots of all services."""
        return dict(self._dump("services4", ServiceKey.decode, ServiceEntry.decode))

    def put_backend(self, backend_id: int, entry: BackendEntry) -> None:
        """Write one backend (ids from 1)."""
        bpfcall.update(self._fds["backends4"], U32.pack(backend_id), entry.encode())

    def delete_backend(self, backend_id: int) -> None:
        """Delete one backend."""
        bpfcall.delete(self._fds["backends4"], U32.pack(backend_id))

    def backends(self) -> dict[int, BackendEntry]:
        """Give all backends by id."""
        return {key.number: entry for key, entry in self._dump("backends4", _Id.decode, BackendEntry.decode)}

    def conntrack(self) -> dict[Flow, Translation]:
        """Give all conntrack entries, forward and reverse."""
        return dict(self._dump("conntrack4", Flow.decode, Translation.decode))

    def put_conntrack(self, flow: Flow, translation: Translation) -> None:
        """Write one conntrack entry (tests; the programs write their own)."""
        bpfcall.update(self._fds["conntrack4"], flow.encode(), translation.encode())

    def forget(self, addresses: set[str]) -> int:
        """Delete every conntrack entry with one of `addresses` as source, destination or backend; give the count."""
        wanted = {socket.inet_aton(address) for address in addresses if ":" not in address}
        spec, fd = self._specs["conntrack4"], self._fds["conntrack4"]
        gone = 0
        for keys, values in bpfcall.batches(fd, spec.key_size, spec.value_size):
            # On raw bytes, a thousand entries at a glance: a full table would take seconds otherwise.
            if not any(address in keys or address in values for address in wanted):
                continue
            for key, value in zip(bpfcall.cut(keys, spec.key_size), bpfcall.cut(values, spec.value_size), strict=True):
                if not wanted.isdisjoint((key[:4], key[4:8], value[:4])):  # saddr, daddr; addr
                    gone += bpfcall.delete(fd, key)
        return gone

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

    def clear_call(self, slot: int) -> None:
        """Empty a slot of `calls`: the holders let packets pass."""
        bpfcall.delete(self._fds["calls"], U32.pack(slot))
