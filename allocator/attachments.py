"""Facts: an attachment and its addresses, the states it goes through, and the journal's records about it.

An attachment is keyed by (network, container id, ifname), never by the pod's name. Its life is the table TRANSITIONS:
`taken` (address chosen and journaled, the kernel is being told), `ready` (acknowledged to the runtime), `detaching` (a
DEL, or the undo of a half-done ADD, has begun; the address is still held), and at last gone from the book.

Every record carries `seq`, the ledger's own count of changes. Commits of several threads may reach the file in another
order than the ledger decided them; replay sorts by `seq` and is back in the ledger's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec import Struct


class AttachmentKey(NamedTuple):
    network: str
    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname} of network {self.network}"


class AddressLease(Struct, frozen=True, array_like=True):
    """One address of an attachment: `address` is "a.b.c.d/nn" with the subnet's length, `gateway` may be ""."""

    pool: str
    address: str
    gateway: str

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4

    @property
    def ip(self) -> str:
        """The address without the prefix length."""
        return self.address.partition("/")[0]


class Facts(Struct, frozen=True):
    """What an ADD knows before it has an address. `started_ns`: CLOCK_MONOTONIC of the shim's start."""

    started_ns: int
    pod_namespace: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    netns_path: str = ""
    netns_dev: int = 0
    netns_ino: int = 0
    link_kind: str = "ipvlan"
    uplink: str = ""
    mac: str = ""


class Attachment(Struct, frozen=True, array_like=True):
    """One interface of one sandbox. The journal holds these by position: append fields with a default, never reorder.

    `netns_dev` and `netns_ino` identify the sandbox's namespace (a path can be reused); `ifindex` is the slave's,
    chosen by us and unique on the node; `mac` is "" until it is known (macvlan: after the link exists);
    `routes` are (destination, gateway) of its pools at the time of the ADD.
    """

    network: str
    container_id: str
    ifname: str
    pod_namespace: str
    pod_name: str
    pod_uid: str
    netns_path: str
    netns_dev: int
    netns_ino: int
    link_kind: str
    uplink: str
    ifindex: int
    mac: str
    leases: tuple[AddressLease, ...]
    routes: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.network, self.container_id, self.ifname)

    @classmethod
    def of(
        cls,
        key: AttachmentKey,
        facts: Facts,
        ifindex: int,
        leases: tuple[AddressLease, ...],
        routes: tuple[tuple[str, str], ...] = (),
    ) -> Attachment:
        """What an ADD knew, with what the ledger chose for it."""
        return cls(
            *key,
            facts.pod_namespace,
            facts.pod_name,
            facts.pod_uid,
            facts.netns_path,
            facts.netns_dev,
            facts.netns_ino,
            facts.link_kind,
            facts.uplink,
            ifindex,
            facts.mac,
            leases,
            routes,
        )


class State(StrEnum):
    TAKEN = "taken"
    READY = "ready"
    DETACHING = "detaching"
    GONE = "gone"


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.TAKEN: frozenset({State.READY, State.DETACHING}),
    State.READY: frozenset({State.DETACHING}),
    State.DETACHING: frozenset({State.GONE}),
    State.GONE: frozenset(),
}


class Record(Struct, frozen=True, array_like=True):
    """One change, as the journal keeps it."""

    seq: int


class Taken(Record, frozen=True, array_like=True, tag="taken"):
    """An address was chosen; nothing in the kernel yet."""

    attachment: Attachment


class Ready(Record, frozen=True, array_like=True, tag="ready"):
    """Wired; the runtime may be told. Whole again, so that one damaged record cannot hide a live attachment."""

    attachment: Attachment


class Detaching(Record, frozen=True, array_like=True, tag="detaching"):
    """It is being unwired; the address is still held."""

    key: AttachmentKey


class Gone(Record, frozen=True, array_like=True, tag="gone"):
    """Nothing of it is left; its addresses cool down."""

    key: AttachmentKey


class Tombstone(Record, frozen=True, array_like=True, tag="tombstone"):
    """A DEL began at `started_ns`: ADDs of this container that started no later are refused."""

    container_id: str
    started_ns: int


class Cooling(Record, frozen=True, array_like=True, tag="cooling"):
    """Addresses (no prefix length) that were cooling when the journal was compacted, longest idle first."""

    addresses: tuple[str, ...]


class Snapshot(Record, frozen=True, array_like=True, tag="snapshot"):
    """First record of a compacted journal: what follows says everything up to `seq`.

    A record after it with a smaller or equal `seq` was on its way to the file while the snapshot was taken.
    """


AnyRecord = Taken | Ready | Detaching | Gone | Tombstone | Cooling | Snapshot
