"""How either kind of datapath is opened: with programs, maps and sockets balanced, or with none of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent import socket_lb
from agent.config import Config
from agent.conntrack_ageing import ConntrackAgeing
from agent.datapaths import Choice
from agent.service_sync import ServiceSync
from agent.without_ebpf import KubeProxy, NoFlows
from cluster.store import Store
from datapath.absent import NoMaps, NoPrograms
from datapath.kernel import Datapath
from datapath.loader import load
from datapath.maps import Maps
from datapath.plans import NETLINK, NetlinkPlan


@dataclass(frozen=True, slots=True)
class Opened:
    """An open datapath and its two tasks; `programs` and `socket_lb` are lines of the status."""

    kernel: Datapath
    maps: Maps | None
    services: ServiceSync | KubeProxy
    ageing: ConntrackAgeing | NoFlows
    programs: str
    socket_lb: str


@contextmanager
def opened(choice: Choice, config: Config, store: Store) -> Iterator[Opened]:
    """The datapath of that kind. Raises BpfLoadError, OSError."""
    with _netlink(config) if choice.name == NETLINK else _ebpf(config, store) as found:
        try:
            yield found
        finally:
            found.kernel.close()


@contextmanager
def _netlink(config: Config) -> Iterator[Opened]:
    kernel = Datapath(config.bpf_root, NoPrograms(), NoMaps(), NetlinkPlan(config.service_cidr))
    off = socket_lb.SocketLb(None, "the netlink datapath has no programs")
    off = socket_lb.switch(off, kernel.programs, config.bpf_root)  # none of another datapath's may stay
    yield Opened(kernel, None, KubeProxy(), NoFlows(), "none", str(off))


@contextmanager
def _ebpf(config: Config, store: Store) -> Iterator[Opened]:
    begin = time.monotonic()
    balancing = socket_lb.wanted(config)
    with load(config.bpf_root, specs=balancing.programs) as programs, Maps(config.bpf_root) as maps:
        balancing = socket_lb.switch(balancing, programs, config.bpf_root)
        services = ServiceSync(store, maps, config.node_name)
        took = f"{(time.monotonic() - begin) * 1e3:.0f} ms"
        yield Opened(
            kernel=Datapath(config.bpf_root, programs, maps),
            maps=maps,
            services=services,
            ageing=ConntrackAgeing(maps, services),
            programs=f"{programs.build}, {'compiled' if programs.compiled else 'adopted'}, ready in {took}",
            socket_lb=str(balancing),
        )
