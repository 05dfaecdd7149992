"""What the stories share: one node's book, journal, datapath and store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agent.config import Config
from agent.conntrack_ageing import ConntrackAgeing
from agent.datapaths import Choice
from agent.gate import AddGate
from agent.publish import Publisher
from agent.service_sync import ServiceSync
from agent.uplinks import UplinkCache
from agent.without_ebpf import KubeProxy, NoFlows
from allocator.attachments import AttachmentKey
from allocator.journal import Journal
from allocator.ledger import Ledger
from cluster.store import Store
from datapath.kernel import Datapath
from datapath.maps import Maps

VERSION = "0.1.0"


@dataclass(slots=True)
class Node:
    """Everything belongs to the event loop's thread, but `journal`, `kernel` and `pinned`, which worker threads use."""

    config: Config
    store: Store
    ledger: Ledger
    journal: Journal
    kernel: Datapath
    pinned: Maps | None
    """None without eBPF."""
    uplinks: UplinkCache
    publisher: Publisher
    services: ServiceSync | KubeProxy
    ageing: ConntrackAgeing | NoFlows
    programs: str
    """How the programs came into the kernel, for `dragline status`."""
    socket_lb: str
    """Whether sockets are balanced, or why not, for `dragline status`."""
    datapath: Choice
    pool_problems: list[tuple[str, str]] = field(default_factory=list)
    """(pool, why) of pools whose last edit cannot be used."""
    gate: AddGate = field(default_factory=AddGate)
    reaping: dict[AttachmentKey, asyncio.Task[None]] = field(default_factory=dict)
    """The slow half of DELs that are answered already."""
    lost_backends: set[tuple[int, str]] = field(default_factory=set)
    """(backend id, protocol): their connected sockets are to be closed."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when `lost_backends` has news."""

    @property
    def maps(self) -> Maps:
        """The pinned maps, for questions that are not asked without eBPF (`agent.daemon`). Any thread."""
        assert self.pinned is not None, f"the {self.datapath.name} datapath has no maps"
        return self.pinned

    def not_ready(self) -> list[str]:
        """Why ADD cannot be served now; empty when it can."""
        reasons = []
        if not self.store.synced.is_set():
            reasons.append("the store has not been read yet")
        if not self.services.synced:
            reasons.append("the services are not programmed yet")
        return reasons
