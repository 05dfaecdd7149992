"""What stands for programs and maps in a datapath that has none (`datapath.plans.NetlinkPlan`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from datapath.entries import LocalEntry, LocalKey, PodEntry
from datapath.flows import SocketKey, SocketPeer
from datapath.table import Cookie, Number, Table


class NoPrograms:
    """No program is loaded."""

    def fd(self, name: str) -> int:
        """There is none to attach: asking is a mistake. Raises LookupError."""
        raise LookupError(f"the netlink datapath has no program {name}")


class NoNetnsPods(Table[Cookie, Number]):
    """The table of pods whose sockets are balanced, in which there is none."""

    def __init__(self) -> None:
        """There is no map behind it."""

    def items(self) -> Iterator[tuple[Cookie, Number]]:
        """None."""
        return iter(())

    def add(self, key: Cookie, value: Number) -> bool:
        """Nobody asks."""
        del key, value
        return False

    def delete(self, key: Cookie) -> bool:
        """Nothing is there."""
        del key
        return False


class NoMaps:
    """Nobody reads what would be written, so nothing is; nothing is ever found."""

    def __init__(self) -> None:
        self.netns_pods = NoNetnsPods()

    def sockets_of(self, backend_ids: set[int]) -> Iterator[tuple[SocketKey, SocketPeer]]:
        """None."""
        del backend_ids
        return iter(())

    def lost_backends(self) -> set[tuple[int, str]]:
        """None."""
        return set()

    def forget_socket(self, key: SocketKey) -> None:
        """Nothing is there."""

    def forget_netns(self, ifindex: int) -> None:
        """Nothing is there."""

    def put_pod(self, ifindex: int, entry: PodEntry) -> None:
        """Nobody asks."""

    def delete_pod(self, ifindex: int) -> None:
        """Nothing is there."""

    def put_local(self, address: str, uplink_ifindex: int, kind: int, slave_ifindex: int) -> None:
        """Nobody asks."""

    def delete_local(self, address: str, uplink_ifindex: int) -> None:
        """Nothing is there."""

    def pods(self) -> Mapping[int, PodEntry]:
        """None."""
        return {}

    def locals(self) -> Mapping[LocalKey, LocalEntry]:
        """None."""
        return {}

    def forget(self, addresses: set[str]) -> int:
        """No flow is known."""
        del addresses
        return 0
