"""The handles through which wiring reaches the kernel: plan, programs, maps and sockets of the node's netns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from datapath.entries import LocalEntry, LocalKey, PodEntry
from datapath.flows import SocketKey, SocketPeer
from datapath.plans import EbpfPlan, Plan
from datapath.rtsocket import SocketPool
from datapath.table import Cookie, Number, Table


class ProgramFds(Protocol):
    """What is asked of `datapath.loader.Programs`."""

    def fd(self, name: str) -> int:
        """The descriptor of a loaded program: "hold_egress", "hold_ingress" or "node_to_pod"."""
        ...


class PodMaps(Protocol):
    """What is asked of `datapath.maps.Maps`; every verb may raise OSError, a delete of what is absent does not."""

    @property
    def netns_pods(self) -> Table[Cookie, Number]:
        """Slaves by netns cookie: the pods whose sockets are balanced."""
        ...

    def sockets_of(self, backend_ids: set[int]) -> Iterator[tuple[SocketKey, SocketPeer]]:
        """Entries of `socket_frontends` with these backends."""
        ...

    def lost_backends(self) -> set[tuple[int, str]]:
        """(id, protocol) of backends in `socket_frontends` that take no such sockets any more."""
        ...

    def forget_socket(self, key: SocketKey) -> object:
        """Remove an entry of `socket_frontends`."""
        ...

    def forget_netns(self, ifindex: int) -> None:
        """Remove the netns that has this slave."""
        ...

    def put_pod(self, ifindex: int, entry: PodEntry) -> None:
        """Create or overwrite a pod's entry."""
        ...

    def delete_pod(self, ifindex: int) -> object:
        """Remove a pod's entry."""
        ...

    def put_local(self, address: str, uplink_ifindex: int, kind: int, slave_ifindex: int) -> None:
        """Create or overwrite an entry of `addresses`."""
        ...

    def delete_local(self, address: str, uplink_ifindex: int) -> object:
        """Remove an entry of `addresses`."""
        ...

    def pods(self) -> Mapping[int, PodEntry]:
        """All pods by slave ifindex."""
        ...

    def locals(self) -> Mapping[LocalKey, LocalEntry]:
        """All local addresses."""
        ...

    def forget(self, addresses: set[str]) -> int:
        """Delete every conntrack entry of those pod addresses; how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class Datapath:
    """One node's datapath. Made in the node's netns; shared by all threads.

    Without programs (see `plan`), programs and maps are those of `datapath.absent`.
    """

    bpf_root: Path
    programs: ProgramFds
    maps: PodMaps
    plan: Plan = field(default_factory=EbpfPlan)
    sockets: SocketPool = field(default_factory=SocketPool)

    def close(self) -> None:
        """Close the idle sockets; programs and maps have owners of their own."""
        self.sockets.close()
