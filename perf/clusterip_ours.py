"""Our side of `perf/clusterip.py`: the real programs and maps, Services in them, a pod wired by `datapath.wiring`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from datapath import cgroup, loader, netlink, services, wiring
from datapath.kernel import Datapath
from datapath.loader import Programs
from datapath.maps import Maps
from datapath.wiring import PodAddress, PodWiring
from perf.clusterip_bed import Bed, Site
from perf.clusterip_proxy import Service
from tests.testbed import netns
from tests.testbed.vpc import mount_bpffs

_IFINDEX = 0x100000
_PREFIX = {4: 24, 6: 64}


class Ours:
    """One set of maps with some Services in them, and pods on one site that use it."""

    def __init__(self, bed: Bed, site: Site, wanted: Sequence[Service], sources: Path) -> None:
        mount_bpffs()
        self._site = site
        self._bed = bed
        self._root = root = bed.bpf_root / site.node
        bed.at_end.callback(shutil.rmtree, bed.bpf_root, ignore_errors=True)
        self._programs: Programs = loader.load(root, sources)
        bed.at_end.callback(self._programs.close)
        self.maps = Maps(root)
        bed.at_end.callback(self.maps.close)
        self._kernel = Datapath(root, self._programs, self.maps)
        bed.at_end.callback(self._kernel.close)
        self._wired = 0
        write_services(self.maps, wanted)

    def socket_cgroup(self) -> Path:
        """A cgroup whose processes' sockets are balanced, if they are those of pods: the agent takes the root instead.

        So the socket hooks run for one path and no other. Raises SocketLbUnavailable.
        """
        folder = cgroup.check() / self._site.node
        folder.mkdir()
        self._bed.at_end.callback(folder.rmdir)
        cgroup.attach(self._programs, folder, self._root)
        self._bed.at_end.callback(cgroup.detach, self._root)
        return folder

    def pod(self, kind: str) -> str:
        """A pod wired as the agent wires it. The name of its netns."""
        host, name = self._site.next_host(), self._site.new_pod_netns()
        self._wired += 1
        addresses = tuple(
            PodAddress(f"{self._site.address(host, family)}/{length}", self._site.address("254", family))
            for family, length in _PREFIX.items()
        )

        def wire() -> None:
            facts = PodWiring(
                kind=kind,
                mode="bridge" if kind == "macvlan" else "l2",
                mtu=0,
                uplink=netlink.uplink("up0"),
                ifname="eth0",
                ifindex=_IFINDEX + self._wired,
                addresses=addresses,
                routes=(),
                default_route=True,
                node_addresses=netlink.node_addresses(),
                container_id=name,
            )
            target = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
            try:
                wiring.wire(facts, target, self._kernel)
            finally:
                os.close(target)

        netns.enter(self._site.node, wire)
        return name


def write_services(maps: Maps, wanted: Sequence[Service]) -> None:
    """Write Services as the agent does after a start. The one place that knows how they get into the maps."""
    programmed = services.Programmed()
    frontends = {
        (one.address, one.port, "TCP"): (((one.endpoint, one.endpoint_port),), (), 0, True, one.name) for one in wanted
    }
    services.apply(services.plan(programmed, frontends), maps, programmed)
