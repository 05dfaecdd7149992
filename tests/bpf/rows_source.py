"""Rows of from_pod's source check: what a pod may send, and what it may say of itself and others."""

from __future__ import annotations

from scapy.compat import raw
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import LLC, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from datapath.abi import ADDRESS_POD
from tests.bpf.rig import OK, SHOT, SIBLING_SLAVE, SLAVE, Rig
from tests.bpf.row import Row, Step, V, both, in_both_families, on_wire, passes, pod, syn, web
from tests.fragments import DESTINATION_OPTIONS, extended, fragments
from tests.packets import (
    OWN_MAC,
    STRANGER_MAC,
    UPLINK,
    V4,
    V6,
    Cast,
    arp,
    icmp,
    mac,
    sctp,
    tcp,
    udp,
)

LINK_LOCAL, ROUTER, ALL_NODES = "fe80::10", "fe80::1", "ff02::1"
SECOND = {"v4": "10.1.0.12", "v6": "fd00:1::12"}
BIG = b"big" * 60


def _drop(name: str, frame: bytes, verdict: V, before: Step | None = None) -> Row:
    return Row(name, "from_pod", frame, verdict, SHOT, None, before)


def _second_address(cast: Cast, slave: int = SLAVE) -> Step:
    return lambda rig: rig.maps.put_local(SECOND[cast.name], UPLINK, ADDRESS_POD, slave)


def _addresses(cast: Cast) -> list[Row]:
    """Of every kind of packet, to a Service and past it."""
    service = web(cast.far)
    other, foreign = (SECOND[cast.name], 40000), V.DROP_FOREIGN_SOURCE
    without = pod(addr4="0.0.0.0", mask4="0.0.0.0", addr6="::", mask6="::")
    own_unknown = both(service, without, lambda rig: rig.maps.delete_local(cast.pod, UPLINK))
    frames = {
        "sibling-to-service": tcp((cast.sibling, 40000), cast.web),
        "sibling-mid-stream": tcp((cast.sibling, 40000), cast.web, "PA"),
        "sibling-to-far": tcp((cast.sibling, 40000), (cast.far, 80)),
        "sibling-to-multicast": udp((cast.sibling, 40000), (cast.multicast, 5353)),
        "node": udp((cast.node, 40000), (cast.far, 80)),
        "backend": tcp((cast.far, 8080), cast.client, "SA"),
        "vip": tcp(cast.web, cast.client, "SA"),
        "hairpin-source": tcp((cast.hairpin, 40000), (cast.pod, 8080)),
        "unspecified": udp((cast.any, 68), (cast.far, 67)),
        "ping": icmp(cast.sibling, cast.far),
        "sctp": sctp((cast.sibling, 40000), (cast.far, 80)),
        "first-fragment": fragments(udp((cast.sibling, 40000), (cast.far, 80), data=BIG))[0],
        "later-fragment": fragments(udp((cast.sibling, 40000), (cast.far, 80), data=BIG))[1],
        "to-itself": tcp((cast.sibling, 40000), cast.client),
    }
    second = tcp(other, cast.web)
    return [
        *(_drop(name, frame, foreign, service) for name, frame in frames.items()),
        _drop("pod-without-the-family", syn(cast), foreign, own_unknown),
        _drop("unspecified-of-a-pod-without-the-family", frames["unspecified"], foreign, own_unknown),
        _drop("second-address-of-another", second, foreign, both(service, _second_address(cast, SIBLING_SLAVE))),
        _drop("second-address-unknown", second, foreign, service),
        Row("second-address", "from_pod", second, V.VERDICT_SERVICE_GATEWAY, OK, on_wire(cast.far, frame=second),
            both(service, _second_address(cast))),
        passes("second-address-to-far", tcp(other, (cast.far, 80)), V.VERDICT_DIRECT, _second_address(cast)),
    ]  # fmt: skip


def _macs(cast: Cast) -> list[Row]:
    frames = {"to-service": syn(cast), "to-far": udp(cast.client, (cast.far, 80)), "ping": icmp(cast.pod, cast.far)}
    rows = [
        _drop(f"mac-{name}", frame[:6] + mac(STRANGER_MAC) + frame[12:], V.DROP_FOREIGN_MAC, web(cast.far))
        for name, frame in frames.items()
    ]
    return [*rows, _drop("own-mac-as-sender-only", syn(cast), V.DROP_FOREIGN_MAC, pod(mac=STRANGER_MAC))]


def _arp() -> list[Row]:
    said = {
        "arp-request": arp(V4.pod, V4.sibling),
        "arp-reply": arp(V4.pod, V4.sibling, op=2),
        "arp-announcement": arp(V4.pod, V4.pod),
        "arp-probe": arp("0.0.0.0", V4.pod),
    }
    foreign = {
        "arp-sender": arp(V4.sibling, V4.pod),
        "arp-reply-for-gateway": arp(V4.gateway, V4.pod, op=2),
        "arp-sender-mac": arp(V4.pod, V4.sibling, mac=STRANGER_MAC),
        "arp-probe-mac": arp("0.0.0.0", V4.pod, mac=STRANGER_MAC),
        "arp-second-of-nobody": arp(SECOND["v4"], V4.pod),
    }
    return [
        *(passes(name, frame, V.VERDICT_PASS) for name, frame in said.items()),
        passes("arp-second-address", arp(SECOND["v4"], V4.sibling), V.VERDICT_PASS, _second_address(V4)),
        *(_drop(name, frame, V.DROP_FOREIGN_ARP) for name, frame in foreign.items()),
        _drop("arp-frame-mac", arp(V4.pod, V4.sibling, smac=STRANGER_MAC), V.DROP_FOREIGN_MAC),
        _drop("arp-of-a-pod-without-ipv4", arp(V4.pod, V4.sibling), V.DROP_FOREIGN_ARP, _without_ipv4),
    ]


def _without_ipv4(rig: Rig) -> None:
    pod(addr4="0.0.0.0", mask4="0.0.0.0")(rig)
    rig.maps.delete_local(V4.pod, UPLINK)


def _nd(message: Packet, src: str = V6.pod, dst: str = ALL_NODES) -> bytes:
    return raw(Ether(src=OWN_MAC, dst="33:33:00:00:00:01") / IPv6(src=src, dst=dst, hlim=255) / message)


def _discovery() -> list[Row]:
    mine, others = ICMPv6ND_NA(tgt=V6.pod), ICMPv6ND_NA(tgt=V6.sibling)
    said = {
        "advertisement": _nd(mine),
        "advertisement-from-link-local": _nd(mine, LINK_LOCAL),
        "advertisement-of-link-local": _nd(ICMPv6ND_NA(tgt=LINK_LOCAL), LINK_LOCAL),
        "solicitation": _nd(ICMPv6ND_NS(tgt=V6.sibling) / ICMPv6NDOptSrcLLAddr(lladdr=OWN_MAC)),
        "address-free": _nd(ICMPv6ND_NS(tgt=V6.pod), "::"),
        "router-solicitation": _nd(ICMPv6ND_RS(), LINK_LOCAL, "ff02::2"),
        "router-solicitation-unspecified": _nd(ICMPv6ND_RS(), "::", "ff02::2"),
        "listener-report": _nd(ICMPv6MLReport2(), "::", "ff02::16"),
        "udp-from-link-local": udp((LINK_LOCAL, 546), ("ff02::1:2", 547)),
    }
    foreign = {
        "advertisement-of-another": _nd(others),
        "advertisement-of-another-from-link-local": _nd(others, LINK_LOCAL),
        "advertisement-unicast": _nd(others, V6.pod, V6.node),
        "advertisement-of-gateway": _nd(ICMPv6ND_NA(tgt=V6.gateway)),
        "advertisement-behind-options": extended(_nd(others), (DESTINATION_OPTIONS, 8)),
        "router-advertisement": _nd(ICMPv6ND_RA(), LINK_LOCAL),
        "redirect": _nd(ICMPv6ND_Redirect(tgt=LINK_LOCAL, dst=V6.far), LINK_LOCAL),
    }
    second = _nd(ICMPv6ND_NA(tgt=SECOND["v6"]))
    solicits = _nd(ICMPv6ND_NS(tgt=V6.sibling) / ICMPv6NDOptSrcLLAddr(lladdr=OWN_MAC), ROUTER)
    by_router = pod(gateway6=ROUTER)
    return [
        *(passes(name, frame, V.VERDICT_PASS) for name, frame in said.items()),
        passes("ping-from-link-local", icmp(LINK_LOCAL, "fe80::1"), V.VERDICT_DIRECT),
        passes("advertisement-second-address", second, V.VERDICT_PASS, _second_address(V6)),
        *(_drop(name, frame, V.DROP_FOREIGN_ND) for name, frame in foreign.items()),
        _drop("advertisement-of-link-local-gateway", _nd(ICMPv6ND_NA(tgt=ROUTER)), V.DROP_FOREIGN_ND, by_router),
        _drop("solicitation-from-link-local-gateway", solicits, V.DROP_FOREIGN_SOURCE, by_router),
        _drop("link-local-to-service", tcp((LINK_LOCAL, 40000), V6.web), V.DROP_FOREIGN_SOURCE, web(V6.far)),
        _drop("link-local-to-far", udp((LINK_LOCAL, 40000), (V6.far, 80)), V.DROP_FOREIGN_SOURCE),
        _drop("advertisement-cut", _nd(mine)[:70], V.DROP_MALFORMED),
        _drop("advertisement-second-of-nobody", second, V.DROP_FOREIGN_ND),
        _drop("udp-unspecified-to-multicast", udp(("::", 546), ("ff02::1:2", 547)), V.DROP_FOREIGN_SOURCE),
        _drop("advertisement-from-another", _nd(mine, V6.sibling), V.DROP_FOREIGN_SOURCE),
        _drop("v4-mapped", tcp(("::ffff:10.1.0.10", 1), ("::ffff:10.96.0.10", 80)), V.DROP_MALFORMED, web(V4.far)),
        _drop("v4-mapped-destination", tcp(V6.client, ("::ffff:10.96.0.10", 80)), V.DROP_MALFORMED, web(V4.far)),
    ]


def _protocols() -> list[Row]:
    """A source that cannot be checked is a foreign one."""
    inner = Ether(syn(V4)).payload
    frames = {
        "vlan": Ether(src=OWN_MAC, dst=STRANGER_MAC) / Dot1Q(vlan=7) / inner,
        "vlan-0": Ether(src=OWN_MAC, dst=STRANGER_MAC) / Dot1Q(vlan=0) / inner,
        "vlan-in-vlan": Ether(src=OWN_MAC, dst=STRANGER_MAC) / Dot1AD(vlan=7) / Dot1Q(vlan=8) / inner,
        "vlan-arp": Ether(src=OWN_MAC, dst=STRANGER_MAC) / Dot1Q(vlan=7) / Ether(arp(V4.pod, V4.sibling)).payload,
        "lldp": Ether(src=OWN_MAC, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(bytes(50)),
        "mpls": Ether(src=OWN_MAC, dst=STRANGER_MAC, type=0x8847) / Raw(bytes(50)),
        "bridge": Ether(src=OWN_MAC, dst="01:80:c2:00:00:00", type=38) / LLC() / Raw(bytes(50)),
        "no-payload": Ether(src=OWN_MAC, dst=STRANGER_MAC, type=0x88B5),
    }
    return [_drop(f"protocol-{name}", raw(frame), V.DROP_FOREIGN_PROTOCOL) for name, frame in frames.items()]


ROWS = [*in_both_families(_addresses, _macs), *_arp(), *_discovery(), *_protocols()]
