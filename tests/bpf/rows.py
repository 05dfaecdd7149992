"""Rows: frame in, program, maps before, verdict, TC code and the whole frame out (test_rows.py runs them)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scapy.layers.inet import IPOption

from datapath.abi import ADDRESS_NODE, ADDRESS_POD, CT_REVERSE, Verdict
from datapath.entries import ServiceEntry, ServiceKey
from datapath.flows import Flow, Translation
from datapath.table import Number
from tests.bpf import rig as bench
from tests.bpf.rig import IPVLAN_POD, OK, REDIRECT, SHOT, SLAVE, UNSPEC, Rig
from tests.packets import (
    BLACKHOLE,
    FAR,
    GATEWAY_MAC,
    NODE_ONE,
    ON_LINK,
    ON_LINK_UNKNOWN,
    OTHER_UPLINK_POD,
    OWN_MAC,
    POD_ONE,
    REMOTE_MAC,
    SIBLING,
    SIBLING_V6,
    VIP,
    arp,
    fragment,
    icmp,
    ipv6,
    readdressed,
    tcp,
    udp,
)

CLIENT = (POD_ONE, 40000)
WEB = (VIP, 80)


@dataclass(frozen=True, slots=True)
class Row:
    """`wanted` None: the frame is untouched."""

    name: str
    program: str
    frame: bytes
    verdict: Verdict
    code: int
    wanted: bytes | None = None
    before: Callable[[Rig], None] | None = None
    ifindex: int = SLAVE


def web(address: str, protocol: str = "TCP") -> Callable[[Rig], None]:
    return lambda rig: rig.service((*WEB, protocol), {7: (address, 8080)})


def pod(**change: object) -> Callable[[Rig], None]:
    return lambda rig: rig.maps.put_pod(SLAVE, replace(IPVLAN_POD, **change))  # type: ignore[arg-type]


def both(*steps: Callable[[Rig], None]) -> Callable[[Rig], None]:
    def run(rig: Rig) -> None:
        for step in steps:
            step(rig)

    return run


def on_wire(address: str, dmac: str = GATEWAY_MAC, frame: bytes = tcp(CLIENT, WEB)) -> bytes:
    return readdressed(frame, dst=address, dport=8080, dmac=dmac)


def no_slot(rig: Rig) -> None:
    rig.maps.services.put(ServiceKey(*WEB, "TCP", 0), ServiceEntry(service_id=1, count=1))


def answer_known(rig: Rig) -> None:
    flow = Flow(FAR, 8080, *CLIENT, "TCP", CT_REVERSE)
    rig.maps.conntrack.put(flow, Translation(*WEB, CLIENT[1], 1, 7))


def uplink_pods(rig: Rig) -> None:
    """In the node's netns the bench's device plays the uplink."""
    for address in (SIBLING, SIBLING_V6):
        rig.maps.put_local(address, SLAVE, ADDRESS_POD, bench.SIBLING_SLAVE)
    rig.maps.put_local(NODE_ONE, SLAVE, ADDRESS_NODE)


def foreign_port_table(rig: Rig) -> None:
    """Every source port towards the backend belongs to a flow just seen (by another CPU, whose clock is ahead)."""
    web(FAR)(rig)
    for port in (CLIENT[1], *range(32768, 61000)):
        flow = Flow(FAR, 8080, POD_ONE, port, "TCP", CT_REVERSE)
        rig.maps.conntrack.put(flow, Translation("10.96.9.9", 1, 1, 9, 9, last_seen_ns=(1 << 62)))


SYN = tcp(CLIENT, WEB)
DATA = tcp(CLIENT, WEB, "PA")
V = Verdict

TO_POD_ROWS = [
    Row("not-ipv4", "to_pod", arp(NODE_ONE, POD_ONE), V.VERDICT_PASS, UNSPEC),
    Row("unknown-flow", "to_pod", tcp((FAR, 8080), CLIENT, "SA"), V.VERDICT_PASS, UNSPEC),
    Row("other-protocol", "to_pod", udp((FAR, 8080), CLIENT), V.VERDICT_PASS, UNSPEC, before=answer_known),
    Row("fragment", "to_pod", fragment((FAR, 8080), CLIENT, first=True), V.VERDICT_PASS, UNSPEC, before=answer_known),
    Row(
        "answer",
        "to_pod",
        tcp((FAR, 8080), CLIENT, "SA"),
        V.VERDICT_ANSWER,
        OK,
        readdressed(tcp((FAR, 8080), CLIENT, "SA"), src=VIP, sport=80),
        answer_known,
    ),
]

NODE_ROWS = [
    Row(
        "to-pod",
        "node_to_pod",
        icmp(NODE_ONE, SIBLING, dmac=OWN_MAC),
        V.VERDICT_NODE_TO_POD,
        REDIRECT,
        None,
        uplink_pods,
    ),
    Row(
        "to-pod-v6",
        "node_to_pod",
        ipv6("fd00:1::2", SIBLING_V6, dmac=OWN_MAC),
        V.VERDICT_NODE_TO_POD,
        REDIRECT,
        None,
        uplink_pods,
    ),
    Row("other-mac", "node_to_pod", icmp(NODE_ONE, SIBLING), V.VERDICT_PASS, UNSPEC, None, uplink_pods),
    Row("not-local", "node_to_pod", icmp(NODE_ONE, FAR, dmac=OWN_MAC), V.VERDICT_PASS, UNSPEC, None, uplink_pods),
    Row("other-uplink", "node_to_pod", icmp(NODE_ONE, SIBLING, dmac=OWN_MAC), V.VERDICT_PASS, UNSPEC),
    Row("node", "node_to_pod", icmp(NODE_ONE, NODE_ONE, dmac=OWN_MAC), V.VERDICT_PASS, UNSPEC, None, uplink_pods),
    Row("arp", "node_to_pod", arp(NODE_ONE, SIBLING), V.VERDICT_PASS, UNSPEC, None, uplink_pods),
]

PASS_ROWS = [
    Row("unknown-device", "from_pod", SYN, V.VERDICT_PASS, UNSPEC, None, web(FAR), ifindex=1),
    Row("arp", "from_pod", arp(POD_ONE, SIBLING), V.VERDICT_PASS, UNSPEC),
    Row("ipv6", "from_pod", ipv6("fd00:1::10", SIBLING_V6, dmac=GATEWAY_MAC), V.VERDICT_PASS, UNSPEC),
    Row("multicast", "from_pod", udp(CLIENT, ("224.0.0.251", 5353), dmac="01:00:5e:00:00:fb"), V.VERDICT_PASS, UNSPEC),
    Row("multicast-address", "from_pod", udp(CLIENT, ("224.0.0.251", 5353)), V.VERDICT_PASS, UNSPEC),
    Row("runt-tcp", "from_pod", SYN[:46], V.VERDICT_DIRECT, UNSPEC, None, web(FAR)),
    Row("short-ihl", "from_pod", SYN[:14] + b"\x44" + SYN[15:], V.VERDICT_PASS, UNSPEC, None, web(FAR)),
    Row("foreign-source", "from_pod", tcp((SIBLING, 1), WEB), V.VERDICT_FOREIGN_SOURCE, UNSPEC, None, web(FAR)),
    Row("no-ipv4-pod", "from_pod", SYN, V.VERDICT_FOREIGN_SOURCE, UNSPEC, None, both(web(FAR), pod(addr4="0.0.0.0"))),
    Row("hairpin-unknown", "from_pod", tcp(CLIENT, ("169.254.202.1", 9)), V.VERDICT_PASS, UNSPEC),
]

DIRECT_ROWS = [
    Row("far", "from_pod", tcp(CLIENT, (FAR, 80)), V.VERDICT_DIRECT, UNSPEC),
    Row("far-udp", "from_pod", udp(CLIENT, (FAR, 80)), V.VERDICT_DIRECT, UNSPEC),
    Row("other-port-of-vip", "from_pod", tcp(CLIENT, (VIP, 81)), V.VERDICT_DIRECT, UNSPEC, None, web(FAR)),
    Row("udp-twin-of-tcp-port", "from_pod", udp(CLIENT, WEB), V.VERDICT_DIRECT, UNSPEC, None, web(FAR)),
    Row(
        "fragment-first", "from_pod", fragment(CLIENT, WEB, first=True), V.VERDICT_DIRECT, UNSPEC, None, web(FAR, "UDP")
    ),
    Row(
        "fragment-later",
        "from_pod",
        fragment(CLIENT, WEB, first=False),
        V.VERDICT_DIRECT,
        UNSPEC,
        None,
        web(FAR, "UDP"),
    ),
    Row("sibling-near", "from_pod", tcp(CLIENT, (SIBLING, 80), dmac=OWN_MAC), V.VERDICT_DIRECT, UNSPEC),
    Row("pod-of-other-uplink", "from_pod", tcp(CLIENT, (OTHER_UPLINK_POD, 80)), V.VERDICT_DIRECT, UNSPEC),
    Row("sibling-macvlan", "from_pod", tcp(CLIENT, (SIBLING, 80)), V.VERDICT_DIRECT, UNSPEC, None, pod(flags=0)),
    *(
        Row(name, "from_pod", frame, V.VERDICT_DIRECT_OWN_MAC, OK, bytes.fromhex(OWN_MAC.replace(":", "")) + frame[6:])
        for name, frame in {
            "sibling-tcp": tcp(CLIENT, (SIBLING, 80)),
            "sibling-udp": udp(CLIENT, (SIBLING, 53)),
            "sibling-ping": icmp(POD_ONE, SIBLING),
            "sibling-fragment": fragment(CLIENT, (SIBLING, 53), first=False),
            "node": tcp(CLIENT, (NODE_ONE, 22)),
        }.items()
    ),
]

OPTIONS = tcp(CLIENT, WEB, options=IPOption(b"\x07\x07\x04\x00\x00\x00\x00\x00"))

SERVICE_ROWS = [
    Row("far", "from_pod", SYN, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(FAR), web(FAR)),
    Row("mid-stream", "from_pod", DATA, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(FAR, frame=DATA), web(FAR)),
    Row("ip-options", "from_pod", OPTIONS, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(FAR, frame=OPTIONS), web(FAR)),
    Row("sibling", "from_pod", SYN, V.VERDICT_SERVICE_OWN_MAC, OK, on_wire(SIBLING, OWN_MAC), web(SIBLING)),
    Row("node", "from_pod", SYN, V.VERDICT_SERVICE_OWN_MAC, OK, on_wire(NODE_ONE, OWN_MAC), web(NODE_ONE)),
    Row(
        "other-uplink", "from_pod", SYN, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(OTHER_UPLINK_POD), web(OTHER_UPLINK_POD)
    ),
    Row("on-link", "from_pod", SYN, V.VERDICT_SERVICE_FIB, OK, on_wire(ON_LINK, REMOTE_MAC), web(ON_LINK)),
    Row("resolve", "from_pod", SYN, V.VERDICT_SERVICE_NEIGH, REDIRECT, on_wire(ON_LINK_UNKNOWN), web(ON_LINK_UNKNOWN)),
    Row("no-route", "from_pod", SYN, V.DROP_NO_ROUTE, SHOT, on_wire(BLACKHOLE), web(BLACKHOLE)),
    Row("macvlan-far", "from_pod", SYN, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(FAR), both(web(FAR), pod(flags=0))),
    Row(
        "macvlan-sibling",
        "from_pod",
        SYN,
        V.VERDICT_SERVICE_NEIGH,
        REDIRECT,
        on_wire(SIBLING),
        both(web(SIBLING), pod(flags=0)),
    ),
    Row(
        "gateway-only-route",
        "from_pod",
        SYN,
        V.VERDICT_SERVICE_GATEWAY,
        OK,
        on_wire(ON_LINK),
        both(web(ON_LINK), pod(mask4="255.255.255.255")),
    ),
    Row(
        "udp",
        "from_pod",
        udp(CLIENT, WEB),
        V.VERDICT_SERVICE_GATEWAY,
        OK,
        on_wire(FAR, frame=udp(CLIENT, WEB)),
        web(FAR, "UDP"),
    ),
    Row(
        "udp-no-checksum",
        "from_pod",
        udp(CLIENT, WEB, checksum=0),
        V.VERDICT_SERVICE_GATEWAY,
        OK,
        on_wire(FAR, frame=udp(CLIENT, WEB, checksum=0)),
        web(FAR, "UDP"),
    ),
    Row(
        "hairpin",
        "from_pod",
        SYN,
        V.VERDICT_HAIRPIN,
        OK,
        readdressed(SYN, src="169.254.202.1", dst=POD_ONE, dport=8080, dmac=OWN_MAC),
        web(POD_ONE),
    ),
    Row("no-backends", "from_pod", SYN, V.DROP_NO_BACKEND, SHOT, None, lambda rig: rig.service((*WEB, "TCP"), {})),
    Row("no-slot", "from_pod", SYN, V.DROP_BACKEND_MISSING, SHOT, None, no_slot),
    Row(
        "no-backend-entry",
        "from_pod",
        SYN,
        V.DROP_BACKEND_MISSING,
        SHOT,
        None,
        both(web(FAR), lambda rig: rig.maps.backends.delete(Number(7))),
    ),
    Row("no-source-port", "from_pod", SYN, V.DROP_NO_SOURCE_PORT, SHOT, None, foreign_port_table),
]

ROWS = {
    f"{group}-{row.name}": row
    for group, rows in {
        "pass": PASS_ROWS,
        "direct": DIRECT_ROWS,
        "service": SERVICE_ROWS,
        "to-pod": TO_POD_ROWS,
        "node": NODE_ROWS,
    }.items()
    for row in rows
}
