"""`dragline trace` says before a packet is sent what the programs count when it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest
from scapy.compat import raw
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from agent import trace, trace_steps
from datapath.abi import (
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_NODE_PORT,
    ADDRESS_POD,
    BACKEND_DRAINING,
    Verdict,
)
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.flows import Affinity, AffinityKey
from datapath.table import Number
from tests import packets as who
from tests.bpf.rig import IPVLAN_POD, SLAVE, Rig
from tests.bpf.traces import LEASES, POD, WEB, counted, facts


def one_backend(address: str) -> Callable[[Rig], None]:
    """A Service with one backend there."""
    return lambda rig: rig.service(WEB, {1: (address, 8080)})


def no_backend(rig: Rig) -> None:
    rig.service(WEB, {})


def another_port(rig: Rig) -> None:
    rig.service((who.VIP, 81, "TCP"), {1: (who.FAR, 8080)})


def only_draining(rig: Rig) -> None:
    rig.service(WEB, {})
    rig.maps.backends.put(Number(1), BackendEntry(who.FAR, 8080, 1, BACKEND_DRAINING))


def beside_a_draining(rig: Rig) -> None:
    rig.service(WEB, {1: (who.SIBLING, 8080)})
    rig.maps.backends.put(Number(2), BackendEntry(who.FAR, 8080, 1, BACKEND_DRAINING))


def another_address(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.put_pod(SLAVE, replace(IPVLAN_POD, addr4="10.1.0.99"))
    rig.maps.delete_local(who.POD_ONE, who.UPLINK)


def another_mac(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.put_pod(SLAVE, replace(IPVLAN_POD, mac="02:00:00:00:00:77"))


def not_ours(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.delete_pod(SLAVE)


def empty_slot(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.backends.delete(Number(1))


def anothers_backend(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.backends.put(Number(1), BackendEntry(who.FAR, 8080, 9))


def draining_in_a_slot(rig: Rig) -> None:
    rig.service(WEB, {1: (who.FAR, 8080)})
    rig.maps.backends.put(Number(1), BackendEntry(who.FAR, 8080, 1, BACKEND_DRAINING))


def external_ip(rig: Rig) -> None:
    rig.service((who.VIP, 443, "TCP"), {1: (who.FAR, 8080)}, known=ADDRESS_FRONTEND)


def affine(rig: Rig) -> None:
    rig.service(WEB, {1: (who.SIBLING, 8080), 2: (who.FAR, 8080)}, affinity_s=60)
    rig.maps.affinity.put(AffinityKey(who.POD_ONE, 1), Affinity(2, time.monotonic_ns()))


def affine_but_draining(rig: Rig) -> None:
    rig.service(WEB, {1: (who.SIBLING, 8080)}, affinity_s=60)
    rig.maps.backends.put(Number(2), BackendEntry(who.FAR, 8080, 1, BACKEND_DRAINING))
    rig.maps.affinity.put(AffinityKey(who.POD_ONE, 1), Affinity(2, time.monotonic_ns()))


def by_another_address(rig: Rig) -> None:
    one_backend("10.1.0.88")(rig)
    rig.maps.put_local("10.1.0.88", who.UPLINK, ADDRESS_POD, SLAVE)


ROWS: dict[str, tuple[Callable[[Rig], None], Verdict]] = {
    "remote-off-link": (one_backend(who.FAR), Verdict.VERDICT_SERVICE_GATEWAY),
    "remote-on-link": (one_backend(who.ON_LINK), Verdict.VERDICT_SERVICE_NEIGH),
    "remote-on-link-unresolved": (one_backend(who.ON_LINK_UNKNOWN), Verdict.VERDICT_SERVICE_NEIGH),
    "other-uplink": (one_backend(who.OTHER_UPLINK_POD), Verdict.VERDICT_SERVICE_GATEWAY),
    "sibling": (one_backend(who.SIBLING), Verdict.VERDICT_SERVICE_OWN_MAC),
    "node": (one_backend(who.NODE_ONE), Verdict.VERDICT_SERVICE_OWN_MAC),
    "hairpin": (one_backend(who.POD_ONE), Verdict.VERDICT_HAIRPIN),
    "hairpin-by-another-address": (by_another_address, Verdict.VERDICT_HAIRPIN),
    "no-endpoints": (no_backend, Verdict.DROP_NO_BACKEND),
    "only-draining": (only_draining, Verdict.DROP_NO_BACKEND),
    "beside-a-draining": (beside_a_draining, Verdict.VERDICT_SERVICE_OWN_MAC),
    "unknown-port": (another_port, Verdict.DROP_UNKNOWN_PORT),
    "unknown-port-of-an-external-ip": (external_ip, Verdict.VERDICT_DIRECT),
    "empty-slot": (empty_slot, Verdict.DROP_BACKEND_MISSING),
    "anothers-backend": (anothers_backend, Verdict.DROP_BACKEND_MISSING),
    "draining-in-a-slot": (draining_in_a_slot, Verdict.DROP_BACKEND_MISSING),
    "foreign-source": (another_address, Verdict.DROP_FOREIGN_SOURCE),
    "foreign-mac": (another_mac, Verdict.DROP_FOREIGN_MAC),
    "not-ours": (not_ours, Verdict.VERDICT_PASS),
    "affinity": (affine, Verdict.VERDICT_SERVICE_GATEWAY),
    "affinity-to-a-draining": (affine_but_draining, Verdict.VERDICT_SERVICE_OWN_MAC),
}


@pytest.mark.parametrize("name", ROWS)
def test_to_a_service(rig: Rig, name: str) -> None:
    prepare, verdict = ROWS[name]
    prepare(rig)
    told = trace_steps.expected(facts(rig))
    assert told == counted(rig, who.tcp((who.POD_ONE, 40000), (who.VIP, 80))) == (verdict,)


@pytest.mark.parametrize(
    ("address", "dmac", "verdict"),
    [
        (who.FAR, who.GATEWAY_MAC, Verdict.VERDICT_DIRECT),
        (who.SIBLING, who.OWN_MAC, Verdict.VERDICT_DIRECT),
        (who.NODE_ONE, who.OWN_MAC, Verdict.VERDICT_DIRECT),
        ("10.5.0.2", who.GATEWAY_MAC, Verdict.VERDICT_DIRECT_OWN_MAC),
    ],
    ids=["remote", "sibling", "node", "node-off-link"],
)
def test_direct(rig: Rig, address: str, dmac: str, verdict: Verdict) -> None:
    """To no Service; the frames have the MAC that the pod's stack would choose."""
    rig.maps.put_local("10.5.0.2", 0, ADDRESS_NODE)
    told = trace_steps.expected(facts(rig, (address, 8080, "TCP")))
    assert told == counted(rig, who.tcp((who.POD_ONE, 40000), (address, 8080), dmac=dmac)) == (verdict,)


def test_node_port(rig: Rig) -> None:
    """Of this node and of another one; a port that is none goes on directly."""
    rig.service(("0.0.0.0", 30080, "TCP"), {1: (who.FAR, 8080)}, known=0)
    rig.maps.mark_address("10.5.0.7", ADDRESS_NODE_PORT, ADDRESS_NODE_PORT)
    for node, dmac, way in (
        (who.NODE_ONE, who.OWN_MAC, Verdict.VERDICT_SERVICE_NEIGH),  # on-link: the frame lacks the gateway's MAC
        ("10.5.0.7", who.GATEWAY_MAC, Verdict.VERDICT_SERVICE_GATEWAY),
    ):
        for port, verdict in ((30080, way), (30081, Verdict.VERDICT_DIRECT)):
            told = trace_steps.expected(facts(rig, (node, port, "TCP")))
            assert told == counted(rig, who.tcp((who.POD_ONE, 40000), (node, port), dmac=dmac)) == (verdict,)


def test_node_port_of_a_pod_without_gateway(rig: Rig) -> None:
    rig.service(("0.0.0.0", 30080, "TCP"), {1: (who.FAR, 8080)}, known=0)
    rig.maps.put_pod(SLAVE, replace(IPVLAN_POD, gateway4="0.0.0.0"))
    told = trace_steps.expected(facts(rig, (who.NODE_ONE, 30080, "TCP")))
    frame = who.tcp((who.POD_ONE, 40000), (who.NODE_ONE, 30080), dmac=who.OWN_MAC)
    assert told == counted(rig, frame) == (Verdict.DROP_NO_ROUTE,)


def test_ipv6(rig: Rig) -> None:
    asked = (who.VIP_V6, 80, "TCP")
    for number, (address, verdict) in enumerate(
        ((who.FAR_V6, Verdict.VERDICT_SERVICE_GATEWAY), (who.ON_LINK_V6, Verdict.VERDICT_SERVICE_NEIGH)), 1
    ):
        rig.service(asked, {number: (address, 8080)}, number)
        ends = Ether(src=who.OWN_MAC, dst=who.GATEWAY_MAC) / IPv6(src=who.POD_ONE_V6, dst=who.VIP_V6)
        frame = raw(ends / TCP(sport=40000 + number, dport=80, flags="S"))
        assert trace_steps.expected(facts(rig, asked)) == counted(rig, frame) == (verdict,)


def test_one_of_several(rig: Rig) -> None:
    """Every verdict that a backend would give is told, and nothing else is counted."""
    rig.service(WEB, {1: (who.SIBLING, 8080), 2: (who.FAR, 8080), 3: (who.POD_ONE, 8080)})
    told = set(trace_steps.expected(facts(rig)))
    frames = (who.tcp((who.POD_ONE, 40000 + number), (who.VIP, 80)) for number in range(60))
    assert told == {verdict for frame in frames for verdict in counted(rig, frame)}
    assert len(told) == 3


def test_no_packet_without_address_or_route(rig: Rig) -> None:
    """A pod without IPv6 sends nothing there; what it sends to itself never reaches the programs."""
    only_four = msgspec.structs.replace(POD, leases=LEASES[:1])
    assert trace_steps.expected(facts(rig, (who.VIP_V6, 80, "TCP"), only_four)) == ()
    assert trace_steps.expected(facts(rig, (who.POD_ONE, 80, "TCP"))) == ()


def test_stages_are_in_the_programs_order(rig: Rig) -> None:
    """Nothing is told of stages behind the one that decides."""

    def names(asked: tuple[str, int, str] = WEB) -> list[str]:
        return [stage.name for stage in trace.stages(facts(rig, asked))]

    start = ["socket hook", "pod's route", "source check"]
    lookup = ["address", "service lookup"]
    rig.service(WEB, {1: (who.FAR, 8080)})
    assert names() == [*start, *lookup, "affinity", "backends", "next hop", "conntrack", "counters"]
    assert names((who.VIP, 81, "TCP")) == [*start, *lookup]
    assert names((who.FAR, 81, "TCP")) == [*start, *lookup, "next hop"]
    rig.maps.services.put(ServiceKey(*WEB, 0), ServiceEntry(service_id=1))
    assert names() == [*start, *lookup, "affinity", "backends", "conntrack", "counters"]
    rig.maps.delete_pod(SLAVE)
    assert names() == start
    assert names((who.POD_ONE, 80, "TCP")) == start[:2]
