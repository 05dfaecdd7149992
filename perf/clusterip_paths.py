"""The ways from a pod to a Service that `perf/clusterip.py` compares, each built on a site of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datapath.abi import Verdict
from perf.clusterip_bed import SERVER_PORT, SERVICE_PORT, Bed, Sample, Site, run_load, service_address
from perf.clusterip_ours import Ours
from perf.clusterip_proxy import Service, iptables_rules, nftables_rules
from tests.testbed import netns

DIRECT, ATTACHED, TC, SOCKET, IPTABLES, NFTABLES = (
    "direct",
    "direct, programs attached",
    "ClusterIP by tc",
    "ClusterIP by socket",
    "detour, kube-proxy iptables",
    "detour, kube-proxy nftables",
)
OURS, PEERS = (TC, SOCKET), (IPTABLES, NFTABLES)
_RULES_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Way:
    """From the pod with netns `pod` to `address`:`port`; `services`: how many the node knows (0: no matter)."""

    name: str
    services: int
    family: int
    pod: str
    address: str
    port: int
    cgroup: Path | None = None

    def measure(self, mode: str, seconds: float) -> Sample:
        """One run of the load generator on this way."""
        return run_load(self.pod, self.cgroup, [mode, self.address, str(self.port), str(seconds)])


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to build: the kind of slave, the families, the numbers of Services, and where our programs' source lies."""

    kind: str
    families: Sequence[int]
    sizes: Sequence[int]
    sources: Path


def build(bed: Bed, wanted: Wanted) -> list[Way]:
    """Every path, ready to be measured."""
    paths = list(_direct(bed, wanted))
    for size in wanted.sizes:
        print(f"building the ways with {size} Services", file=sys.stderr, flush=True)
        paths += _ours(bed, wanted, size)
        paths += _detour(bed, wanted, size, IPTABLES, _load_iptables)
        paths += _detour(bed, wanted, size, NFTABLES, _load_nftables)
    return paths


def services_of(site: Site, size: int, family: int) -> tuple[list[Service], Service]:
    """`size` Services, and the one in their middle whose endpoint is the server; the others' endpoints are nobody."""
    served = size // 2
    found = [
        Service(
            name=f"default/service-{number}",
            address=service_address(number, family),
            port=SERVICE_PORT,
            endpoint=site.server_address(family) if number == served else _nobody(number, family),
            endpoint_port=SERVER_PORT,
        )
        for number in range(size)
    ]
    return found, found[served]


def _nobody(number: int, family: int) -> str:
    return f"10.64.{number // 250}.{number % 250 + 1}" if family == 4 else f"fd65::{number + 1:x}"


def _direct(bed: Bed, wanted: Wanted) -> Iterator[Way]:
    site = bed.new_site()
    pod = site.plain_pod(wanted.kind)
    for family in wanted.families:
        yield Way(DIRECT, 0, family, pod, site.server_address(family), SERVER_PORT)


def _ours(bed: Bed, wanted: Wanted, size: int) -> Iterator[Way]:
    site = bed.new_site()
    served = {family: services_of(site, size, family) for family in wanted.families}
    everything = [one for services, _ in served.values() for one in services]
    ours = Ours(bed, site, everything, wanted.sources)
    # A pod for each way: what one leaves in conntrack must not meet the other's packets.
    by_tc, by_socket, attached = (ours.pod(wanted.kind) for _ in range(3))
    group = ours.socket_cgroup()
    for family, (_, one) in served.items():
        yield _counted(ours, Verdict.VERDICT_ANSWER, Way(TC, size, family, by_tc, one.address, one.port))
        way = Way(SOCKET, size, family, by_socket, one.address, one.port, group)
        yield _counted(ours, Verdict.VERDICT_SOCKET, way)
        if size == max(wanted.sizes):
            yield Way(ATTACHED, size, family, attached, one.endpoint, one.endpoint_port)


def _counted(ours: Ours, verdict: Verdict, way: Way) -> Way:
    """The same way, known to be what its name says: raises TestbedError when our programs do not count it so."""
    before = ours.maps.counters()[verdict]
    way.measure("crr", 0.05)
    if ours.maps.counters()[verdict] == before:
        raise netns.TestbedError(f"{way.name} is something else: no {verdict.name}")
    return way


def _detour(
    bed: Bed, wanted: Wanted, size: int, name: str, load: Callable[[Site, int, list[Service]], None]
) -> Iterator[Way]:
    site = bed.new_site()
    pod = site.detour_pod(wanted.kind)
    for family in wanted.families:
        services, served = services_of(site, size, family)
        load(site, family, services)
        # Only now is there a conntrack to be told. Spiderpool asks for it: kube-proxy drops what it did not see begin.
        netns.write_sysctls(site.node, {"netfilter/nf_conntrack_tcp_be_liberal": "1"})
        yield Way(name, size, family, pod, served.address, served.port)


def _load_iptables(site: Site, family: int, services: list[Service]) -> None:
    tool = "iptables-restore" if family == 4 else "ip6tables-restore"
    netns.run(netns.nsenter(site.node, [tool]), stdin=iptables_rules(services, family), timeout_s=_RULES_TIMEOUT_S)


def _load_nftables(site: Site, family: int, services: list[Service]) -> None:
    netns.run(
        netns.nsenter(site.node, ["nft", "-f", "-"]), stdin=nftables_rules(services, family), timeout_s=_RULES_TIMEOUT_S
    )


def versions() -> dict[str, str]:
    """The peers' tools."""
    asked = {"iptables": ["iptables", "--version"], "nftables": ["nft", "--version"]}
    return {
        name: subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for name, command in asked.items()
    }
