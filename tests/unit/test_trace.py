"""The thinking of `dragline trace` where no packet is needed (tests/bpf compares it with the programs)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent import trace, trace_steps, trace_text
from agent.trace_facts import Facts, Hooks, Place, PodFacts
from datapath import verdicts
from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_POD,
    BACKEND_DRAINING,
    CT_ANSWERED,
    POD_DIRECT_NAT,
    POD_OWN_MAC,
    Verdict,
)
from datapath.entries import AddressEntry, BackendEntry, PodEntry, ServiceEntry
from datapath.flow_pairs import Client, Pair
from datapath.flows import Affinity, FlowCounters
from datapath.frontends import BackendView, Frontend, FrontendView, State
from datapath.netlink import Way

VIP, POD, BACKEND, GATEWAY = "10.96.0.10", "10.8.0.10", "10.9.0.30", "10.8.0.254"
MAC, GATEWAY_MAC = "02:00:00:00:00:01", "02:00:00:00:00:fe"
WEB = Frontend(VIP, 80, "TCP")
SLAVE, UPLINK, SERVICE_ID = 0x100000, 3, 7
NS = 1_000_000_000
NOW = 1_000 * NS

ENTRY = PodEntry(MAC, POD_OWN_MAC, POD, "255.255.255.0", UPLINK)
PODS = PodFacts("default/client", "eth0", SLAVE, "ipvlan", "eth0", (POD,), MAC, ENTRY, Hooks(False, "off"))
BY_GATEWAY = Way("unicast", SLAVE, GATEWAY, GATEWAY_MAC)
ACTIVE = BackendView(1, (1,), BackendEntry(BACKEND, 8080, SERVICE_ID), State.ACTIVE)
DRAINS = BackendView(2, (), BackendEntry("10.9.0.31", 8080, SERVICE_ID, BACKEND_DRAINING), State.DRAINING)
CALLED = AddressEntry(ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP)


def view(count: int = 1, affinity_s: int = 0) -> FrontendView:
    entry = ServiceEntry(SERVICE_ID, 0, count, 0, affinity_s)
    return FrontendView(WEB, entry, 0, ADDRESS_CLUSTER_IP, FlowCounters(3, 4))


def facts(**changes: Any) -> Facts:
    """A Service with one backend off-link, apart from what is changed."""
    built = Facts(
        pod=PODS,
        asked=WEB,
        service="default/web",
        source=POD,
        places={VIP: Place(CALLED, "", BY_GATEWAY), POD: Place(AddressEntry(ADDRESS_POD, UPLINK, SLAVE))},
        view=view(),
        backends=(ACTIVE,),
        now_ns=NOW,
    )
    return replace(built, **changes)


def with_way(way: Way | None, **pod: Any) -> Facts:
    places = {VIP: Place(CALLED, "", way), POD: facts().place(POD)}
    return facts(places=places, pod=replace(PODS, **pod))


@pytest.mark.parametrize(
    ("way", "sent", "told"),
    [
        (BY_GATEWAY, True, f"via {GATEWAY} dev eth0, next hop's MAC {GATEWAY_MAC}"),
        (Way("unicast", SLAVE), True, "on-link dev eth0, next hop's MAC to be resolved"),
        (Way("unicast", 5), False, "by its link 5, which is not eth0"),
        (Way("none"), False, "has no route"),
        (Way("local", 1), False, "own address"),
        (Way("prohibit"), False, "says prohibit"),
        (None, True, "not known: gone"),
    ],
)
def test_whether_a_packet_is_sent(way: Way | None, sent: bool, told: str) -> None:
    given = with_way(way, problem="gone")
    leaving = trace_steps.leaves(given)
    assert leaving.sent == sent
    assert told in leaving.how
    assert bool(trace_steps.expected(given)) == sent


def test_a_family_that_the_pod_lacks() -> None:
    assert "no IPv4 address" in trace_steps.leaves(facts(source="")).how
    six = facts(source="", asked=Frontend("fd96::10", 80, "TCP"))
    assert "no IPv6 address" in trace_steps.leaves(six).how


@pytest.mark.parametrize(
    ("age_s", "affine", "chosen", "told"),
    [
        (10, BackendEntry(BACKEND, 8080, SERVICE_ID), 1, "last used 10 s ago"),
        (59, BackendEntry(BACKEND, 8080, SERVICE_ID), 1, "last used 59 s ago"),
        (60, BackendEntry(BACKEND, 8080, SERVICE_ID), None, "too old"),
        (10, BackendEntry(BACKEND, 8080, SERVICE_ID + 1), None, "takes no new flows"),
        (10, BackendEntry(BACKEND, 8080, SERVICE_ID, BACKEND_DRAINING), None, "takes no new flows"),
        (10, None, None, "takes no new flows"),
    ],
)
def test_affinity(age_s: int, affine: BackendEntry | None, chosen: int | None, told: str) -> None:
    given = facts(view=view(affinity_s=60), affinity=Affinity(1, NOW - age_s * NS), affine=affine)
    decided = trace_steps.affinity(given)
    assert decided.backend_id == chosen
    assert told in decided.why


def test_affinity_without_an_entry() -> None:
    assert "no entry yet" in trace_steps.affinity(facts(view=view(affinity_s=60))).why
    assert "chooses anew" in trace_steps.affinity(facts()).why


def test_affinity_to_a_backend_that_has_no_slot_any_more_counts() -> None:
    """The programs only ask whether the backend is there and does not drain."""
    other = BackendEntry("10.9.0.99", 8080, SERVICE_ID)
    given = facts(view=view(affinity_s=60), affinity=Affinity(9, NOW), affine=other)
    assert [one.backend_id for one in trace_steps.choices(given)] == [9]


@pytest.mark.parametrize(
    ("flags", "uplink", "pod_flags", "verdict"),
    [
        (ADDRESS_NODE, 0, POD_OWN_MAC, Verdict.VERDICT_SERVICE_OWN_MAC),
        (ADDRESS_POD, UPLINK, POD_OWN_MAC, Verdict.VERDICT_SERVICE_OWN_MAC),
        (ADDRESS_POD, UPLINK + 1, POD_OWN_MAC, Verdict.VERDICT_SERVICE_GATEWAY),
        (ADDRESS_NODE, 0, 0, Verdict.VERDICT_SERVICE_GATEWAY),
        (0, 0, POD_OWN_MAC, Verdict.VERDICT_SERVICE_GATEWAY),
    ],
)
def test_the_next_hop_of_a_backend(flags: int, uplink: int, pod_flags: int, verdict: Verdict) -> None:
    """macvlan (no own-MAC flag) has no short cut."""
    places = {**facts().places, BACKEND: Place(AddressEntry(flags, uplink, 99))}
    given = facts(places=places, pod=replace(PODS, entry=replace(ENTRY, flags=pod_flags)))
    assert trace_steps.reach(given, ACTIVE).verdict == verdict


@pytest.mark.parametrize(
    ("address", "own", "mask", "same"),
    [
        ("10.8.0.200", POD, "255.255.255.0", True),
        ("10.8.1.200", POD, "255.255.255.0", False),
        ("fd08::200", "fd08::10", "ffff:ffff:ffff:ffff::", True),
        ("fd09::200", "fd08::10", "ffff:ffff:ffff:ffff::", False),
    ],
)
def test_on_link(address: str, own: str, mask: str, same: bool) -> None:
    six = ":" in own
    entry = replace(ENTRY, addr6=own, mask6=mask) if six else replace(ENTRY, addr4=own, mask4=mask)
    assert trace_steps.on_link(entry, address) == same


def flow(protocol: str = "TCP", **changes: Any) -> Pair:
    client = Client(POD, 40000, VIP, 80, protocol)
    return Pair(client, BACKEND, 8080, 40000, SERVICE_ID, 1, CT_ANSWERED, NOW, "")._replace(**changes)


@pytest.mark.parametrize(
    ("protocol", "changes", "told"),
    [
        ("TCP", {"flow_backends": {1: BackendEntry(BACKEND, 8080, SERVICE_ID)}}, "goes on"),
        ("TCP", {"flow_backends": {1: BackendEntry(BACKEND, 8081, SERVICE_ID)}}, "the pod gets a reset"),
        ("SCTP", {}, "ICMP port unreachable"),
        ("UDP", {"view": view(0)}, "there is no backend any more"),
        ("UDP", {"view": None}, "the frontend is gone: the pod is told"),
    ],
)
def test_what_becomes_of_a_flow(protocol: str, changes: dict[str, Any], told: str) -> None:
    given = facts(asked=WEB._replace(protocol=protocol), **changes)
    assert told in trace_steps.next_packet(given, flow(protocol)).why


def test_a_direct_flow_with_another_source_port_goes_on() -> None:
    """It asks conntrack for its own sake, whether or not Services are called at the address."""
    places = {BACKEND: Place()}
    marked = replace(PODS, entry=replace(ENTRY, flags=POD_DIRECT_NAT))
    given = facts(asked=Frontend(BACKEND, 8080, "TCP"), places=places, view=None, pod=marked)
    assert trace_steps.next_packet(given, flow(service_id=0)).why == "goes on"
    assert "no Service is called" in trace_steps.next_packet(replace(given, pod=PODS), flow()).why


def text(given: Facts) -> str:
    return trace_text.trace(trace.answer(given, verdicts.read()))


def test_hooks_that_work_are_told_first() -> None:
    on = replace(PODS, hooks=Hooks(True, "on, at /sys/fs/cgroup"))
    told = text(facts(pod=on))
    assert "Verdict: socket (16)" in told
    assert "Of packets that name the Service: service-gateway (5)" in told
    assert "no backend to choose" in text(facts(pod=on, view=view(0), backends=(DRAINS,)))
    direct = facts(pod=on, view=None, places={VIP: Place(None, "", BY_GATEWAY)})
    assert "the address is meant as it stands" in text(direct)
    assert "Verdict: direct (2)" in text(direct)


def test_the_text_says_what_an_operator_looks_for() -> None:
    told = text(facts(backends=(ACTIVE, DRAINS), flows=tuple(flow() for _ in range(25))))
    for words in (
        "default/client 10.8.0.10 (eth0, slave 1048576, ipvlan on eth0) -> default/web 10.96.0.10:80/TCP",
        "10.9.0.30:8080  id 1  active  slot 1",
        "10.9.0.31:8080  id 2  draining  no slot",
        "one of 1 at random; 1 draining get no new flows",
        "elsewhere, off-link: keeps the next hop's MAC (10.8.0.254, 02:00:00:00:00:fe)",
        "25 flows of this pod to this frontend",
        "and 5 more: see `dragline conntrack --pod default/client`",
        "3 flows opened, 4 packets refused",
        "Verdict: service-gateway (5): from_pod: backend off-link",
    ):
        assert words in told


def test_no_endpoints_in_words() -> None:
    told = text(facts(view=view(0), backends=(DRAINS,)))
    assert "none is ready: refused, the pod gets a reset; 1 draining keep their flows" in told
    assert "Verdict: DROP no-backend (32)" in told
