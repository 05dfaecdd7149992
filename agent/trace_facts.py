"""What a trace knows: read from the live maps and the pod's namespace by `agent.trace_answers`, judged by
`agent.trace_steps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from datapath.abi import Verdict
from datapath.entries import AddressEntry, BackendEntry, PodEntry
from datapath.flow_pairs import Pair
from datapath.flows import Affinity
from datapath.frontends import BackendView, Frontend, FrontendView
from datapath.netlink import Way


@dataclass(frozen=True, slots=True)
class Hooks:
    """The socket hooks: `working` when they translate this pod's connect() and sendmsg(); `why` (not)."""

    working: bool
    why: str


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The pod and the slave its packet leaves by. `entry` is the slave's in the map `pods`, `mac` the link's own."""

    name: str
    ifname: str
    slave_ifindex: int
    link_kind: str
    uplink: str
    addresses: tuple[str, ...]
    mac: str = ""
    entry: PodEntry | None = None
    hooks: Hooks = Hooks(False, "")
    problem: str = ""
    """Why the pod's namespace could not be read; ways and MACs are unknown then."""

    def address_like(self, other: str) -> str:
        """The pod's first address of the family of `other`; "" when it has none."""
        return next((address for address in self.addresses if (":" in address) == (":" in other)), "")


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of an address: its entry in the map `addresses`, the pod that has it, the pod's way to it."""

    entry: AddressEntry | None = None
    pod: str = ""
    way: Way | None = None

    @property
    def flags(self) -> int:
        """The ADDRESS_* flags, 0 for none."""
        return self.entry.flags if self.entry else 0


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything about one pod's next packet to `asked`, of which the pod's source address is `source`."""

    pod: PodFacts
    asked: Frontend
    service: str
    """ "ns/name" of `asked`, "" when the store has no such frontend."""
    source: str
    places: Mapping[str, Place]
    """By address: the one asked for, the source, every backend's."""
    view: FrontendView | None = None
    """The frontend that the maps have for it: its own, or a NodePort."""
    backends: tuple[BackendView, ...] = ()
    affinity: Affinity | None = None
    affine: BackendEntry | None = None
    """The backend that `affinity` names."""
    flows: tuple[Pair, ...] = ()
    """The pod's flows to `asked`."""
    flow_backends: Mapping[int, BackendEntry] = field(default_factory=dict)
    """The backends, by id, that `flows` name and that are (still) there."""
    counters: Mapping[Verdict, int] = field(default_factory=dict)
    now_ns: int = 0

    def place(self, address: str) -> Place:
        """What is known of an address."""
        return self.places.get(address, Place())
