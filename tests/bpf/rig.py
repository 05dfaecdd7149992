"""A bench for programs: one netns with a pod's slave (a veth end), the maps of a private bpffs, frames in and out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from datapath import bpfcall
from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_ENDPOINTS,
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_POD,
    MAPS,
    POD_OWN_MAC,
    Verdict,
)
from datapath.entries import BackendEntry, PodEntry, ServiceEntry, ServiceKey
from datapath.flows import Flow
from datapath.loader import Programs
from datapath.maps import Maps
from datapath.table import Number
from tests import packets as who
from tests.netns.node import inside, ip, new_netns

T = TypeVar("T")

# TC codes (net/pkt_cls.h) as the programs give them.
UNSPEC, OK, SHOT, REDIRECT = -1, 0, 2, 7

SLAVE = 0x100010
SIBLING_SLAVE = 0x100011
IPVLAN_POD = PodEntry(
    mac=who.OWN_MAC,
    flags=POD_OWN_MAC,
    addr4=who.POD_ONE,
    mask4="255.255.255.0",
    uplink_ifindex=who.UPLINK,
    addr6=who.POD_ONE_V6,
    mask6="ffff:ffff:ffff:ffff::",
    gateway4=who.GATEWAY,
    gateway6=who.GATEWAY_V6,
)
CLUSTER_IP = ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP
_KEPT = ("counters", "calls", "workspaces")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program did: TC code, the frame as it left it, and which counters went up by how much."""

    code: int
    frame: bytes
    counted: dict[Verdict, int] = field(default_factory=dict)


class Rig:
    """The bench. Every test starts from the same maps (`reset`); the netns and its routes never change."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.maps = Maps(programs.bpf_root)
        self.netns = new_netns()
        commands = (
            "ip link set lo up",
            f"ip link add slave index {SLAVE} address {who.OWN_MAC} type veth peer name wire",
            "ip link set slave up",
            "ip link set wire up",
            f"ip address add {who.POD_ONE}/24 dev slave",
            f"ip address add {who.POD_ONE_V6}/64 dev slave nodad",
            f"ip route add default via {who.GATEWAY}",
            f"ip route add default via {who.GATEWAY_V6}",
            f"ip route add blackhole {who.BLACKHOLE}",
            f"ip neighbour add {who.GATEWAY} lladdr {who.GATEWAY_MAC} dev slave",
            f"ip neighbour add {who.ON_LINK} lladdr {who.REMOTE_MAC} dev slave",
            f"ip neighbour add {who.GATEWAY_V6} lladdr {who.GATEWAY_MAC} dev slave",
            f"ip neighbour add {who.ON_LINK_V6} lladdr {who.REMOTE_MAC} dev slave",
        )
        ip(self.netns, *commands)

    def close(self) -> None:
        """Give all back."""
        self.maps.close()
        os.close(self.netns)

    def inside(self, work: Callable[[], T]) -> T:
        """Run `work` in the pod's netns."""
        return inside(self.netns, work)

    def reset(self) -> None:
        """Empty maps, then: the pod, a sibling, a pod on the other uplink, the node."""
        for spec in MAPS:
            if spec.name in _KEPT:
                continue
            keys = b"".join(self.raw(spec.name))
            bpfcall.delete_batch(self.maps.fd(spec.name), keys, spec.key_size)
        self.maps.put_pod(SLAVE, IPVLAN_POD)
        for cast in who.CASTS:
            self.maps.put_local(cast.pod, who.UPLINK, ADDRESS_POD, SLAVE)
            self.maps.put_local(cast.sibling, who.UPLINK, ADDRESS_POD, SIBLING_SLAVE)
            self.maps.put_local(cast.other_uplink_pod, who.OTHER_UPLINK, ADDRESS_POD, SIBLING_SLAVE + 1)
            self.maps.put_local(cast.node, 0, ADDRESS_NODE)

    def service(
        self,
        frontend: tuple[str, int, str],
        backends: dict[int, tuple[str, int]],
        service_id: int = 1,
        *,
        known: int = CLUSTER_IP,
        affinity_s: int = 0,
    ) -> None:
        """Write a Service in the order of an update; `backends` by id. What an older state has beyond that stays.

        `known`: what is said of its address, ADDRESS_ENDPOINTS by itself.
        """
        for number, (address, port) in backends.items():
            self.maps.backends.put(Number(number), BackendEntry(address, port, service_id))
        for slot, number in enumerate(backends, 1):
            self.maps.services.put(ServiceKey(*frontend, slot), ServiceEntry(backend_id=number))
        entry = ServiceEntry(service_id=service_id, count=len(backends), affinity_s=affinity_s)
        self.maps.services.put(ServiceKey(*frontend, 0), entry)
        if known:
            self.maps.mark_address(frontend[0], ~0, known | (ADDRESS_ENDPOINTS if backends else 0))

    def raw(self, name: str) -> dict[bytes, bytes]:
        """Give what is in a map, packed."""
        spec = next(spec for spec in MAPS if spec.name == name)
        return dict(bpfcall.items(self.maps.fd(name), spec.key_size, spec.value_size))

    def run(self, program: str, frame: bytes, ifindex: int = SLAVE) -> Outcome:
        """One frame through one program, as if on device `ifindex` of the pod's netns."""
        fd = self.programs.fd(program)
        before = self.maps.counters()
        done = self.inside(lambda: bpfcall.prog_test_run(fd, frame, ifindex))
        after = self.maps.counters()
        counted = {
            verdict: after[verdict] - before[verdict] for verdict in Verdict if after[verdict] != before[verdict]
        }
        return Outcome(done.retval, done.frame, counted)

    def put_pod(self) -> None:
        """Write the pod again, as a restarted agent does."""
        self.maps.put_pod(SLAVE, IPVLAN_POD)

    def delete_conntrack(self, flow: Flow) -> None:
        """Take one entry away, as the LRU does."""
        assert self.maps.conntrack.delete(flow)
