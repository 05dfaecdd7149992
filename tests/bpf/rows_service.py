"""Rows of from_pod: to a Service. Backends in every place, every protocol, options and extension headers, NodePorts."""

from __future__ import annotations

from collections.abc import Iterable

from scapy.layers.inet import IPOption

from datapath.abi import ADDRESS_FRONTEND, ADDRESS_NODE_PORT, BACKEND_DRAINING, CT_REVERSE
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey
from datapath.flows import Flow, Translation
from datapath.table import Number
from tests.bpf.rig import CLUSTER_IP, OK, REDIRECT, SHOT, Rig
from tests.bpf.row import Row, Step, V, both, in_both_families, on_wire, passes, pod, syn, web
from tests.fragments import AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_OPTIONS, ROUTING, extended
from tests.packets import OWN_MAC, V4, V6, Cast, readdressed, sctp, tcp, udp


def _row(name: str, frame: bytes, verdict: V, wanted: bytes | None, before: Step, **more: object) -> Row:
    code = REDIRECT if verdict == V.VERDICT_SERVICE_NEIGH else OK if verdict < V.DROP_NO_BACKEND else SHOT
    return Row(name, "from_pod", frame, verdict, code, wanted, before, **more)  # type: ignore[arg-type]


def _places(cast: Cast) -> list[Row]:
    """Where a backend can be."""
    frame = syn(cast)
    macvlan = pod(flags=0)
    gateway, own, neigh = V.VERDICT_SERVICE_GATEWAY, V.VERDICT_SERVICE_OWN_MAC, V.VERDICT_SERVICE_NEIGH
    no_subnet = pod(mask4="255.255.255.255", mask6="ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
    hairpin = readdressed(frame, src=cast.hairpin, dst=cast.pod, dport=8080, dmac=OWN_MAC)
    near = tcp(cast.client, cast.web, dmac=OWN_MAC)
    return [
        _row("far", frame, gateway, on_wire(cast.far), web(cast.far)),
        _row("sibling", frame, own, on_wire(cast.sibling, OWN_MAC), web(cast.sibling)),
        _row("sibling-near", near, own, on_wire(cast.sibling, OWN_MAC), web(cast.sibling)),
        _row("node", frame, own, on_wire(cast.node, OWN_MAC), web(cast.node)),
        _row("other-uplink", frame, gateway, on_wire(cast.other_uplink_pod), web(cast.other_uplink_pod)),
        _row("on-link", frame, neigh, on_wire(cast.on_link), web(cast.on_link)),
        _row("macvlan-far", frame, gateway, on_wire(cast.far), both(web(cast.far), macvlan)),
        _row("macvlan-sibling", frame, neigh, on_wire(cast.sibling), both(web(cast.sibling), macvlan)),
        _row("gateway-only-route", frame, gateway, on_wire(cast.on_link), both(web(cast.on_link), no_subnet)),
        _row("hairpin", frame, V.VERDICT_HAIRPIN, hairpin, web(cast.pod)),
    ]


def _protocols(cast: Cast) -> list[Row]:
    gateway = V.VERDICT_SERVICE_GATEWAY
    query, unsummed = udp(cast.client, cast.web), udp(cast.client, cast.web, checksum=0)
    init = sctp(cast.client, cast.web)
    hairpin = readdressed(init, src=cast.hairpin, dst=cast.pod, dmac=OWN_MAC)
    empty = udp(cast.client, cast.web, data=b"")
    same_port = tcp(cast.client, (cast.vip, 8080))
    plain = {7: (cast.far, 8080)}
    return [
        _row("udp", query, gateway, on_wire(cast.far, frame=query), web(cast.far, "UDP")),
        _row("udp-empty", empty, gateway, on_wire(cast.far, frame=empty), web(cast.far, "UDP")),
        _row("udp-no-checksum", unsummed, gateway, on_wire(cast.far, frame=unsummed), web(cast.far, "UDP")),
        _row("udp-sum-becomes-0", *_ends_as_zero(cast), web(cast.far, "UDP")),
        _row("tcp-same-port", same_port, gateway, on_wire(cast.far, frame=same_port),
             lambda rig: rig.service((cast.vip, 8080, "TCP"), plain)),
        _row("tcp-syn-ece", tcp(cast.client, cast.web, "SEC"), gateway,
             on_wire(cast.far, frame=tcp(cast.client, cast.web, "SEC")), web(cast.far)),
        _row("sctp", init, gateway, readdressed(init, dst=cast.far), web(cast.far, "SCTP", 80)),
        _row("sctp-sibling", init, V.VERDICT_SERVICE_OWN_MAC, readdressed(init, dst=cast.sibling, dmac=OWN_MAC),
             web(cast.sibling, "SCTP", 80)),
        _row("sctp-hairpin", init, V.VERDICT_HAIRPIN, hairpin, web(cast.pod, "SCTP", 80)),
        # The agent leaves such backends out; what a stranger wrote into the maps is dropped halfway.
        _row("sctp-other-port", init, V.DROP_REWRITE, readdressed(init, dst=cast.far), web(cast.far, "SCTP", 8080)),
    ]  # fmt: skip


def _ends_as_zero(cast: Cast) -> tuple[bytes, V, bytes]:
    """A datagram whose checksum comes out as 0 after the translation: it is written as 0xffff (RFC 768)."""
    at = 60 if cast is V6 else 40
    summed = udp(cast.client, cast.backend, data=bytes(2))[at : at + 2]
    sent = udp(cast.client, cast.web, data=summed)  # this word makes the sum full
    wanted = on_wire(cast.far, frame=sent)
    assert wanted[at : at + 2] == b"\xff\xff"
    return sent, V.VERDICT_SERVICE_GATEWAY, wanted


def _node_ports(cast: Cast) -> list[Row]:
    """NodePorts are called at any node's address, and at no other."""
    frontend = (cast.any, 30080, "TCP")

    def node_port(rig: Rig) -> None:
        rig.service(frontend, {7: cast.backend}, known=0)
        rig.maps.mark_address(cast.other_node, ~0, ADDRESS_NODE_PORT)

    def own_frontend(rig: Rig) -> None:
        """The node's address is an externalIP too: the frontend of that very address comes first."""
        node_port(rig)
        rig.service((cast.node, 30080, "TCP"), {8: (cast.far_two, 8080)}, 2, known=ADDRESS_FRONTEND)

    here, there = tcp(cast.client, (cast.node, 30080)), tcp(cast.client, (cast.other_node, 30080))
    near = tcp(cast.client, (cast.node, 30080), dmac=OWN_MAC)
    datagram, elsewhere = udp(cast.client, (cast.other_node, 30080)), tcp(cast.client, (cast.far, 30080))
    # The address named is on-link, so the frame's MAC is not the gateway's: redirect_neigh finds that.
    neigh, no_gateway = V.VERDICT_SERVICE_NEIGH, both(node_port, pod(gateway4="0.0.0.0", gateway6="::"))
    return [
        _row("node-port", here, neigh, on_wire(cast.far, frame=here), node_port),
        _row("node-port-near", near, neigh, on_wire(cast.far, OWN_MAC, near), node_port),
        _row("node-port-of-another-node", there, neigh, on_wire(cast.far, frame=there), node_port),
        _row("node-port-behind-external-ip", here, neigh, on_wire(cast.far_two, frame=here), own_frontend),
        _row("node-port-without-gateway", here, V.DROP_NO_ROUTE, on_wire(cast.far, frame=here), no_gateway),
        passes("node-port-other-protocol", datagram, V.VERDICT_DIRECT, node_port),
        passes("node-port-elsewhere", elsewhere, V.VERDICT_DIRECT, node_port),
    ]


def _external(cast: Cast) -> list[Row]:
    """An externalIP or a load balancer's address is a frontend like any other."""

    def external(rig: Rig) -> None:
        rig.service((*cast.web, "TCP"), {7: cast.backend}, known=ADDRESS_FRONTEND)

    return [_row("external-ip", syn(cast), V.VERDICT_SERVICE_GATEWAY, on_wire(cast.far), external)]


def _failures(cast: Cast) -> list[Row]:
    """States of the maps that an agent never writes, or that leave no way."""
    frame, web_key = syn(cast), ServiceKey(*cast.web, "TCP", 0)

    def no_slot(rig: Rig) -> None:
        rig.maps.mark_address(cast.vip, ~0, CLUSTER_IP)
        rig.maps.services.put(web_key, ServiceEntry(service_id=1, count=1))

    def no_backend(rig: Rig) -> None:
        web(cast.far)(rig)
        rig.maps.backends.delete(Number(7))

    def backend_of(service_id: int, flags: int = 0) -> Step:
        return both(
            web(cast.far), lambda rig: rig.maps.backends.put(Number(7), BackendEntry(*cast.backend, service_id, flags))
        )

    def ports_taken(protocol: str, ports: Iterable[int]) -> Step:
        """By flows just seen (by another CPU, whose clock is ahead)."""
        flows = [Flow(*cast.backend, cast.pod, port, protocol, CT_REVERSE) for port in ports]
        other = Translation(cast.vip_two, 1, 1, 9, 9, last_seen_ns=1 << 62)
        return lambda rig: rig.maps.conntrack.put_many([(flow, other) for flow in flows])

    every = (40000, *range(32768, 61000))
    sctp_taken = lambda rig: rig.maps.conntrack.put(  # noqa: E731
        Flow(cast.far, 80, *cast.client, "SCTP", CT_REVERSE),
        Translation(cast.vip_two, 1, 1, 9, 9, last_seen_ns=1 << 62),
    )
    missing, taken = V.DROP_BACKEND_MISSING, V.DROP_NO_SOURCE_PORT
    return [
        _row("no-slot", frame, missing, None, no_slot),
        _row("no-backend-entry", frame, missing, None, no_backend),
        _row("backend-of-another-service", frame, missing, None, backend_of(2)),
        _row("backend-draining-in-a-slot", frame, missing, None, backend_of(1, BACKEND_DRAINING)),
        _row("no-source-port", frame, taken, None, both(web(cast.far), ports_taken("TCP", every))),
        _row("no-source-port-udp", udp(cast.client, cast.web), taken, None,
             both(web(cast.far, "UDP"), ports_taken("UDP", every))),
        _row("sctp-collision", sctp(cast.client, cast.web), taken, None, both(web(cast.far, "SCTP", 80), sctp_taken)),
    ]  # fmt: skip


def _options() -> list[Row]:
    """IPv4 options: the L4 header lies elsewhere."""
    rows = []
    for size in (4, 8, 20, 40):
        options = IPOption(bytes([0x9E, size]) + bytes(size - 2))
        for name, make, protocol in (("tcp", tcp, "TCP"), ("udp", udp, "UDP")):
            frame = make(V4.client, V4.web, options=options)
            wanted = on_wire(V4.far, frame=frame)
            rows.append(_row(f"{name}-options-{size}", frame, V.VERDICT_SERVICE_GATEWAY, wanted, web(V4.far, protocol)))
    return rows


CHAINS: dict[str, tuple[tuple[int, int], ...]] = {
    "hop-by-hop": ((HOP_OPTIONS, 8),),
    "routing": ((ROUTING, 24),),
    "destination-options": ((DESTINATION_OPTIONS, 64),),
    "authentication": ((AUTHENTICATION, 24),),
    "authentication-12": ((AUTHENTICATION, 12),),
    "only-fragment": ((FRAGMENT, 8),),
    "each-once": ((HOP_OPTIONS, 8), (DESTINATION_OPTIONS, 16), (ROUTING, 8), (FRAGMENT, 8), (AUTHENTICATION, 16)),
    "as-many-as-are-walked": ((HOP_OPTIONS, 8), *((DESTINATION_OPTIONS, 8),) * 5),
    "long": ((HOP_OPTIONS, 256), (DESTINATION_OPTIONS, 256)),
}
TOO_MANY = ((HOP_OPTIONS, 8), *((DESTINATION_OPTIONS, 8),) * 6)


def _extensions() -> list[Row]:
    """IPv6 extension headers are walked, so many and no more; a chain that ends too early cannot be read."""
    rows = []
    for protocol, frame in {"TCP": syn(V6), "UDP": udp(V6.client, V6.web)}.items():
        before = web(V6.far, protocol)
        for name, chain in CHAINS.items():
            sent, wanted = extended(frame, *chain), extended(on_wire(V6.far, frame=frame), *chain)
            rows.append(_row(f"{protocol}-{name}", sent, V.VERDICT_SERVICE_GATEWAY, wanted, before))
        long = extended(frame, *TOO_MANY)
        rows.append(_row(f"{protocol}-too-many", long, V.DROP_MALFORMED, None, before))
    chained = extended(syn(V6), *CHAINS["each-once"])
    cuts = {"in-first": 55, "in-second": 63, "in-fragment": 90, "in-authentication": 95, "in-tcp": 125}
    rows += [_row(f"cut-{name}", chained[:size], V.DROP_MALFORMED, None, web(V6.far)) for name, size in cuts.items()]
    return rows


ROWS = [
    *in_both_families(_places, _protocols, _node_ports, _external, _failures),
    *_options(),
    *_extensions(),
]
