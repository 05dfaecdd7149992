"""The decisions of bpf/from_pod.c over facts, in its order: which verdict the next packet gets, and why. Pure.

The packet opens a flow (TCP SYN, SCTP INIT, a datagram) from a source port that nobody uses.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from agent.trace_facts import Facts, Place
from datapath.abi import (
    ADDRESS_CLUSTER_IP,
    ADDRESS_FRONTEND,
    ADDRESS_NODE,
    ADDRESS_NODE_PORT,
    ADDRESS_POD,
    BACKEND_DRAINING,
    CT_ANSWERED,
    POD_DIRECT_NAT,
    POD_OWN_MAC,
    Verdict,
)
from datapath.entries import PodEntry
from datapath.flow_pairs import Pair
from datapath.frontends import BackendView, State

_NS = 1_000_000_000
_STREAMS = ("TCP", "SCTP")


class Decision(NamedTuple):
    """What a step decides: the packet's verdict, or None when the next step has its say."""

    verdict: Verdict | None
    why: str


class Leaving(NamedTuple):
    """Whether a packet is sent, and how or why not."""

    sent: bool
    how: str


class Affine(NamedTuple):
    """The backend that session affinity gives, or None."""

    backend_id: int | None
    why: str


def leaves(facts: Facts) -> Leaving:
    """Whether the pod's own stack sends the packet by this slave at all."""
    if not facts.source:
        family = "IPv6" if ":" in facts.asked.address else "IPv4"
        return Leaving(False, f"the pod has no {family} address: nothing is sent")
    way = facts.place(facts.asked.address).way
    if way is None:
        return Leaving(True, f"not known: {facts.pod.problem}")
    if way.kind != "unicast":
        reasons = {"none": "the pod has no route to it", "local": "it is the pod's own address"}
        return Leaving(False, reasons.get(way.kind, f"the pod's route says {way.kind}") + ": nothing is sent")
    if way.ifindex != facts.pod.slave_ifindex:
        return Leaving(False, f"the pod sends it by its link {way.ifindex}, which is not {facts.pod.ifname}")
    via = f"via {way.gateway} " if way.gateway else "on-link "
    return Leaving(True, f"{via}dev {facts.pod.ifname}, next hop's MAC {way.mac or 'to be resolved'}")


def check_source(facts: Facts) -> Decision:
    """pod_lookup, check_mac, check_source."""
    pod = facts.pod
    if pod.entry is None:
        return Decision(Verdict.VERDICT_PASS, f"map pods has no slave {pod.slave_ifindex}: its packets pass untouched")
    if pod.mac and pod.mac != pod.entry.mac:
        why = f"the slave's MAC is {pod.mac}, the pod may send with {pod.entry.mac} only"
        return Decision(Verdict.DROP_FOREIGN_MAC, why)
    if facts.source not in (pod.entry.addr4, pod.entry.addr6) and not is_own(facts, facts.place(facts.source)):
        return Decision(Verdict.DROP_FOREIGN_SOURCE, f"{facts.source} is not the pod's in the maps")
    return Decision(None, f"{facts.source} and {pod.entry.mac} are the pod's")


def find_service(facts: Facts) -> Decision:
    """to_known and find_service: whose address it is, and whether a Service is called there."""
    flags, asked = facts.place(facts.asked.address).flags, facts.asked
    if not is_called(facts):
        return Decision(direct(facts).verdict, "no Service is called at this address: a direct packet")
    if facts.view is not None:
        by = "as it was called" if facts.view.frontend == asked else f"as NodePort {facts.view.frontend}"
        return Decision(None, f"found {by}: service id {facts.view.entry.service_id}")
    if flags & ADDRESS_CLUSTER_IP:
        return Decision(
            Verdict.DROP_UNKNOWN_PORT, f"the ClusterIP has no port {asked.port}/{asked.protocol}: {told(facts)}"
        )
    return Decision(direct(facts).verdict, f"no Service has port {asked.port}/{asked.protocol} here: a direct packet")


def affinity(facts: Facts) -> Affine:
    """The first half of choose_backend."""
    assert facts.view is not None
    timeout_s = facts.view.entry.affinity_s
    if not timeout_s:
        return Affine(None, "none: every flow chooses anew")
    if facts.affinity is None:
        return Affine(None, f"ClientIP, {timeout_s} s: {facts.source} has no entry yet")
    number, age_s = facts.affinity.backend_id, (facts.now_ns - facts.affinity.last_used_ns) / _NS
    if age_s >= timeout_s:
        return Affine(None, f"ClientIP, {timeout_s} s: the entry (backend {number}) is {age_s:.0f} s old, too old")
    entry = facts.affine
    if entry is None or entry.service_id != facts.view.entry.service_id or entry.flags & BACKEND_DRAINING:
        return Affine(None, f"ClientIP, {timeout_s} s: the entry's backend {number} takes no new flows any more")
    return Affine(number, f"ClientIP, {timeout_s} s: backend {number}, last used {age_s:.0f} s ago")


def choices(facts: Facts) -> tuple[BackendView, ...]:
    """The second half of choose_backend: those that a new flow may get, sound or not."""
    chosen = affinity(facts).backend_id
    if chosen is None:
        return tuple(one for one in facts.backends if one.slots)
    known = tuple(one for one in facts.backends if one.backend_id == chosen)
    return known or (BackendView(chosen, (), facts.affine, State.ACTIVE),)


def reach(facts: Facts, backend: BackendView) -> Decision:
    """to_service from the chosen backend on: hairpin, or service_next_hop."""
    if backend.entry is None or backend.state is not State.ACTIVE:
        return Decision(Verdict.DROP_BACKEND_MISSING, f"slot {backend.slots} names a backend that is {backend.state}")
    address = backend.entry.address
    place = facts.place(address)
    if is_own(facts, place):
        return Decision(Verdict.VERDICT_HAIRPIN, "the pod itself: comes back to it from the hairpin address")
    assert facts.pod.entry is not None
    if behind_own_mac(facts.pod.entry, place):
        return Decision(Verdict.VERDICT_SERVICE_OWN_MAC, f"{_whose(facts, place)}: the frame gets the slave's own MAC")
    if not on_link(facts.pod.entry, address):
        if on_link(facts.pod.entry, facts.asked.address):
            return by_gateway(facts.pod.entry, facts.asked.address, _whose(facts, place))
        gateway = facts.place(facts.asked.address).way
        via = f" ({gateway.gateway or facts.asked.address}, {gateway.mac or 'to be resolved'})" if gateway else ""
        return Decision(
            Verdict.VERDICT_SERVICE_GATEWAY, f"{_whose(facts, place)}, off-link: keeps the next hop's MAC{via}"
        )
    mac = place.way.mac if place.way else ""
    known = f"MAC {mac}" if mac else "MAC not known yet"
    return Decision(
        Verdict.VERDICT_SERVICE_NEIGH,
        f"{_whose(facts, place)}, on-link: redirect_neigh until it answers ({known}), then service-mac",
    )


def by_gateway(pod: PodEntry, asked: str, whose: str) -> Decision:
    """An off-link backend behind an address that is on-link: the frame has another MAC than the gateway's."""
    gateway = pod.gateway6 if ":" in asked else pod.gateway4
    if gateway in ("0.0.0.0", "::"):
        return Decision(Verdict.DROP_NO_ROUTE, f"{whose}, off-link, and the pod has no gateway")
    why = f"{whose}, off-link: redirect_neigh to the gateway {gateway} until it answers, then service-mac"
    return Decision(Verdict.VERDICT_SERVICE_NEIGH, why)


def direct(facts: Facts) -> Decision:
    """to_address: no Service."""
    place = facts.place(facts.asked.address)
    if facts.pod.entry is None or not behind_own_mac(facts.pod.entry, place):
        return Decision(Verdict.VERDICT_DIRECT, "untouched: goes where the pod's own routes say")
    way = place.way
    # Siblings and the node answer for themselves with the one MAC that all share.
    if way is not None and (way.mac == facts.pod.entry.mac if way.mac else not way.gateway):
        return Decision(Verdict.VERDICT_DIRECT, f"{_whose(facts, place)}: the pod's stack has the own MAC already")
    return Decision(Verdict.VERDICT_DIRECT_OWN_MAC, f"{_whose(facts, place)}: the own MAC instead of the gateway's")


def expected(facts: Facts) -> tuple[Verdict, ...]:
    """Every verdict that the packet may get: one, or one per sort of backend; () when nothing is sent."""
    if not leaves(facts).sent:
        return ()
    for step in (check_source, find_service):
        verdict = step(facts).verdict
        if verdict is not None:
            return (verdict,)
    assert facts.view is not None
    if not facts.view.entry.count:
        return (Verdict.DROP_NO_BACKEND,)
    found = (reach(facts, backend).verdict for backend in choices(facts))
    return tuple(dict.fromkeys(verdict for verdict in found if verdict is not None))


def is_hooked(facts: Facts) -> bool:
    """Whether connect() and sendmsg() choose a backend, so that packets do not name the Service at all."""
    return facts.pod.hooks.working and facts.view is not None and facts.view.entry.count > 0


def next_packet(facts: Facts, pair: Pair) -> Decision:
    """conntrack_resume: what the next packet of an existing flow gets. The verdict is a drop's, or None.

    Of a connection that was not answered yet it is the first packet once more, which may go elsewhere.
    """
    assert facts.pod.entry is not None
    if not is_called(facts) and not facts.pod.entry.flags & POD_DIRECT_NAT:
        return Decision(None, "goes on directly, no Service is called at this address any more")
    in_stream = facts.asked.protocol in _STREAMS and (pair.lost == "reverse" or bool(pair.flags & CT_ANSWERED))
    if pair.lost != "forward":
        if _stands(facts, pair, in_stream):
            return Decision(None, "goes on, the reverse entry is made again" if pair.lost else "goes on")
        if in_stream:
            return Decision(Verdict.DROP_BACKEND_REMOVED, f"is dropped, the backend is gone: {told(facts)}")
    return _without_flow(facts, in_stream)


def is_called(facts: Facts) -> bool:
    """Whether Services are called at the address."""
    return bool(facts.place(facts.asked.address).flags & (ADDRESS_FRONTEND | ADDRESS_NODE | ADDRESS_NODE_PORT))


def is_own(facts: Facts, place: Place) -> bool:
    """As service.h: whether it is an address of the pod that sends, on the slave it sends by."""
    entry = place.entry
    return entry is not None and bool(entry.flags & ADDRESS_POD) and entry.slave_ifindex == facts.pod.slave_ifindex


def behind_own_mac(pod: PodEntry, place: Place) -> bool:
    """As next_hop.h: on ipvlan the own MAC reaches the node and the siblings of the uplink."""
    if place.entry is None or not pod.flags & POD_OWN_MAC:
        return False
    if place.flags & ADDRESS_NODE:
        return True
    return bool(place.flags & ADDRESS_POD) and place.entry.uplink_ifindex == pod.uplink_ifindex


def on_link(pod: PodEntry, address: str) -> bool:
    """As next_hop.h: whether the address is in the pod's own subnet."""
    six = ":" in address
    own, mask = (pod.addr6, pod.mask6) if six else (pod.addr4, pod.mask4)
    one, other, bits = (int(ipaddress.ip_address(text)) for text in (address, own, mask))
    return not (one ^ other) & bits


def _stands(facts: Facts, pair: Pair, in_stream: bool) -> bool:
    """As backend_stands of conntrack.h."""
    if pair.direct:
        return True
    entry = facts.flow_backends.get(pair.backend_id)
    if entry is None or entry.service_id != pair.service_id:
        return False
    same = (entry.address, entry.port) == (pair.backend, pair.backend_port)
    return same and (in_stream or not entry.flags & BACKEND_DRAINING)


def _without_flow(facts: Facts, in_stream: bool) -> Decision:
    """A packet in mid-stream of which conntrack knows nothing, or one that may go to another backend."""
    if facts.view is None:
        if facts.place(facts.asked.address).flags & ADDRESS_CLUSTER_IP:
            return Decision(Verdict.DROP_UNKNOWN_PORT, f"is refused, the frontend is gone: {told(facts)}")
        return Decision(None, "goes on directly, the frontend is gone")
    if in_stream:
        return Decision(Verdict.DROP_NO_FLOW, f"is dropped, the forward entry was lost: {told(facts)}")
    if not facts.view.entry.count:
        return Decision(Verdict.DROP_NO_BACKEND, f"is refused, there is no backend any more: {told(facts)}")
    return Decision(None, "chooses another backend, its own is gone or drains")


def told(facts: Facts) -> str:
    """How a pod hears of a refusal."""
    return "the pod gets a reset" if facts.asked.protocol == "TCP" else "the pod is told (ICMP port unreachable)"


def _whose(facts: Facts, place: Place) -> str:
    if place.flags & ADDRESS_NODE:
        return "this node"
    if place.entry is not None and place.flags & ADDRESS_POD:
        assert facts.pod.entry is not None
        same = place.entry.uplink_ifindex == facts.pod.entry.uplink_ifindex
        return f"pod {place.pod or '?'} here, on {'the same' if same else 'another'} uplink"
    return "elsewhere"
