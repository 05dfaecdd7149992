"""Rows of to_pod: ICMP errors about translated flows, in the pod's view again with every checksum right.

Each wanted frame is built by scapy from the packet that the pod's socket believes it sent.
"""

from __future__ import annotations

from collections.abc import Sequence

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, IPOption
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.bpf.rig import OK, UNSPEC
from tests.bpf.row import Row, Step, V, answer_known, both, in_both_families
from tests.fragments import DESTINATION_OPTIONS, FRAGMENT, HOP_OPTIONS, extended, fragments
from tests.packets import GATEWAY_MAC, OWN_MAC, V4, V6, Cast, head, readdressed, sctp, tcp, udp

BIG = b"big" * 60
KINDS: dict[str, dict[str, Packet]] = {
    "v4": {
        "host-unreachable": ICMP(type=3, code=1),
        "port-unreachable": ICMP(type=3, code=3),
        "fragmentation-needed": ICMP(type=3, code=4, nexthopmtu=1400),
        "prohibited": ICMP(type=3, code=13),
        "time-exceeded": ICMP(type=11, code=0),
        "reassembly-time-exceeded": ICMP(type=11, code=1),
        "parameter-problem": ICMP(type=12, code=0, ptr=8),
    },
    "v6": {
        "no-route": ICMPv6DestUnreach(code=0),
        "port-unreachable": ICMPv6DestUnreach(code=4),
        "too-big": ICMPv6PacketTooBig(mtu=1400),
        "time-exceeded": ICMPv6TimeExceeded(code=0),
        "parameter-problem": ICMPv6ParamProblem(code=0, ptr=7),
    },
}
FOREIGN: dict[str, dict[str, Packet]] = {
    "v4": {"redirect": ICMP(type=5, code=1, gw="10.1.0.1"), "quench": ICMP(type=4), "echo-reply": ICMP(type=0)},
    "v6": {"echo-reply": ICMPv6EchoReply(), "private-error": Raw(b"\x64\0\0\0\0\0\0\0")},
}


def error(cast: Cast, about: bytes, message: Packet, source: str, dst: str = "") -> bytes:
    """An error from `source` to the pod that quotes `about`, an IP packet or the beginning of one."""
    ip = (IPv6 if cast is V6 else IP)(src=source, dst=dst or cast.pod)
    if cast is V6 and isinstance(message, Raw):
        ip.nh = 58
    return raw(Ether(src=GATEWAY_MAC, dst=OWN_MAC) / ip / message / Raw(about))


def packet(frame: bytes, l4: int | None = None) -> bytes:
    """The IP packet in a frame, with only `l4` bytes behind its IP header (and extension headers of these rows)."""
    if l4 is None:
        return frame[14:]
    at = 54 if frame[12:14] == b"\x86\xdd" else 14 + (frame[14] & 15) * 4
    return frame[14 : at + l4]


def port_unreachable(cast: Cast) -> Packet:
    return KINDS[cast.name]["port-unreachable"]


def _row(name: str, frame: bytes, wanted: bytes, before: Step) -> Row:
    return Row(name, "to_pod", frame, V.VERDICT_ERROR_ANSWER, OK, wanted, before)


def _untouched(name: str, frame: bytes, before: Step) -> Row:
    return Row(name, "to_pod", frame, V.VERDICT_PASS, UNSPEC, None, before)


def _flows(cast: Cast) -> Step:
    """TCP, UDP and SCTP from the pod's port 40000 to the Service."""
    eighty = answer_known(cast, "SCTP", backend=(cast.far, 80))
    return both(answer_known(cast), answer_known(cast, "UDP"), eighty)


def _kinds(cast: Cast) -> list[Row]:
    """A router's error keeps the router's name; the backend's own comes from the Service."""
    rows = []
    seen, wire = tcp(cast.client, cast.web, "PA"), tcp(cast.client, cast.backend, "PA")
    for name, message in KINDS[cast.name].items():
        for who, source, wanted_source in (("router", cast.router, cast.router), ("backend", cast.far, cast.vip)):
            came = error(cast, packet(wire), message, source)
            wanted = error(cast, packet(seen), message, wanted_source)
            rows.append(_row(f"{name}-{who}", came, wanted, _flows(cast)))
    return rows


def _quotes(cast: Cast) -> list[Row]:
    """What is quoted, and how much of it."""
    rows = []
    pairs: dict[str, tuple[bytes, bytes, Sequence[int | None]]] = {
        "tcp": (*_tcp_pair(cast), (4, 8, 16, 18, 20, 24, None)),
        "udp": (udp(cast.client, cast.web), udp(cast.client, cast.backend), (4, 6, 8, 10, None)),
        "udp-no-checksum": (*_unsummed(cast), (8, None)),
        "udp-sum-becomes-0": (*_ends_as_zero(cast), (8, None)),
        "udp-cut-in-transit": (*_large(cast), (8, 48, 100)),
        "sctp": (sctp(cast.client, cast.web, "data"), sctp(cast.client, (cast.far, 80), "data"), (8, 12, None)),
    }
    for name, (seen, wire, sizes) in pairs.items():
        for size in sizes:
            for source, wanted_source in ((cast.router, cast.router), (cast.far, cast.vip)):
                came = error(cast, packet(wire, size), port_unreachable(cast), source)
                wanted = error(cast, packet(seen, size), port_unreachable(cast), wanted_source)
                by = "backend" if source == cast.far else "router"
                rows.append(_row(f"{name}-{size or 'whole'}-{by}", came, wanted, _flows(cast)))
    return rows


def _tcp_pair(cast: Cast) -> tuple[bytes, bytes]:
    return tcp(cast.client, cast.web, "A"), tcp(cast.client, cast.backend, "A")


def _unsummed(cast: Cast) -> tuple[bytes, bytes]:
    return udp(cast.client, cast.web, checksum=0), udp(cast.client, cast.backend, checksum=0)


def _large(cast: Cast) -> tuple[bytes, bytes]:
    return udp(cast.client, cast.web, data=BIG), udp(cast.client, cast.backend, data=BIG)


def _ends_as_zero(cast: Cast) -> tuple[bytes, bytes]:
    """The sum towards the Service is 0, written as 0xffff."""
    at = 60 if cast is V6 else 40
    data = udp(cast.client, cast.web, data=bytes(2))[at : at + 2]
    seen = udp(cast.client, cast.web, data=data)
    assert seen[at : at + 2] == b"\xff\xff"
    return seen, udp(cast.client, cast.backend, data=data)


def _ports(cast: Cast) -> list[Row]:
    """The flow had another source port on the wire than at the socket; a direct one too."""
    wire, message = tcp(cast.client, cast.backend, "A"), port_unreachable(cast)
    changed, direct = answer_known(cast, client_port=50000), answer_known(cast, name=cast.backend, client_port=50000)
    seen, seen_direct = (
        readdressed(wire, src=cast.pod, sport=50000, dst=cast.vip, dport=80),
        readdressed(wire, sport=50000),
    )
    rows = []
    for size in (8, None):
        came = error(cast, packet(wire, size), message, cast.far)
        translated = error(cast, packet(seen, size), message, cast.vip)
        rows.append(_row(f"source-port-{size}", came, translated, changed))
        rows.append(_row(f"direct-{size}", came, error(cast, packet(seen_direct, size), message, cast.far), direct))
    return rows


def _fragmented(cast: Cast) -> list[Row]:
    """A first fragment's checksum covers what is not there, and is changed all the same; a later one has none."""
    seen, wire = (fragments(frame) for frame in _large(cast))
    message = port_unreachable(cast)
    first = error(cast, packet(wire[0]), message, cast.router)
    wanted = error(cast, packet(seen[0]), message, cast.router)
    return [
        _row("first-fragment", first, wanted, _flows(cast)),
        _untouched("later-fragment", error(cast, packet(wire[1]), message, cast.router), _flows(cast)),
    ]


def _foreign(cast: Cast) -> list[Row]:
    """Errors about nothing of ours."""
    known, message = _flows(cast), port_unreachable(cast)
    wire = tcp(cast.client, cast.backend, "A")
    other_port, other_pod = tcp((cast.pod, 40001), cast.backend, "A"), tcp((cast.sibling, 40000), cast.backend, "A")
    back = tcp(cast.backend, cast.client, "A")
    strange = raw(head(cast.pod, cast.far, **{"nh" if cast is V6 else "proto": 47}) / Raw(bytes(40)))
    abouts = {
        "other-flow": packet(other_port),
        "other-pod": packet(other_pod),
        "answer-of-the-backend": packet(back),
        "ports-cut": packet(wire, 3),
        "header-cut": packet(wire)[:19],
        "nothing": b"",
        "other-protocol": packet(strange),
        "own-address-as-backend": packet(tcp(cast.client, cast.web, "A")),
    }
    rows = [_untouched(name, error(cast, about, message, cast.router), known) for name, about in abouts.items()]
    for name, kind in FOREIGN[cast.name].items():
        rows.append(_untouched(name, error(cast, packet(wire), kind, cast.router), known))
    to_another = error(cast, packet(wire), message, cast.router, dst=cast.sibling)
    return [*rows, _untouched("to-another-pod", to_another, known)]


def _odd_headers() -> list[Row]:
    """IPv4 options and IPv6 extension headers, inside and outside."""
    rows, known4, known6 = [], _flows(V4), _flows(V6)
    unreachable = KINDS["v4"]["port-unreachable"]
    for size in (4, 40):
        options = IPOption(bytes([0x9E, size]) + bytes(size - 2))
        for make in (tcp, udp):
            seen, wire = make(V4.client, V4.web, options=options), make(V4.client, V4.backend, options=options)
            came = error(V4, packet(wire, 8), unreachable, V4.far)
            wanted = error(V4, packet(seen, 8), unreachable, V4.vip)
            rows.append(_row(f"inner-options-{size}-{make.__name__}", came, wanted, known4))
    options = IPOption(bytes([0x9E, 8]) + bytes(6))
    outer = [
        raw(Ether(src=GATEWAY_MAC, dst=OWN_MAC) / IP(src=src, dst=V4.pod, options=options) / unreachable / Raw(about))
        for src, about in ((V4.far, packet(udp(V4.client, V4.backend))), (V4.vip, packet(udp(V4.client, V4.web))))
    ]
    rows.append(_row("outer-options", *outer, known4))
    short = bytearray(packet(udp(V4.client, V4.backend)))
    short[0] = 0x44
    rows.append(_untouched("inner-short-ihl", error(V4, bytes(short), unreachable, V4.far), known4))
    seen, wire = udp(V6.client, V6.web), udp(V6.client, V6.backend)
    message = KINDS["v6"]["port-unreachable"]
    for kind, size in ((HOP_OPTIONS, 8), (DESTINATION_OPTIONS, 16), (FRAGMENT, 8)):
        came = error(V6, packet(extended(wire, (kind, size))), message, V6.far)
        wanted = error(V6, packet(extended(seen, (kind, size))), message, V6.vip)
        rows.append(_row(f"inner-extension-{kind}", came, wanted, known6))
    two = extended(wire, (HOP_OPTIONS, 8), (FRAGMENT, 8))
    rows.append(_untouched("inner-two-extensions", error(V6, packet(two), message, V6.far), known6))
    came, wanted = error(V6, packet(wire), message, V6.far), error(V6, packet(seen), message, V6.vip)
    chain = ((HOP_OPTIONS, 8), (DESTINATION_OPTIONS, 16))
    rows.append(_row("outer-extensions", extended(came, *chain), extended(wanted, *chain), known6))
    return rows


ROWS = [*in_both_families(_kinds, _quotes, _ports, _fragmented, _foreign), *_odd_headers()]
