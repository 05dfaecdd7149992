"""Rows of what a pod is told by itself: ICMP port unreachable, TCP resets, echo replies; and what is never answered.

The whole answer is built anew by scapy: every field, checksum and quoted byte.
"""

from __future__ import annotations

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, IPOption
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from datapath.abi import ADDRESS_FRONTEND
from tests.bpf.rig import REDIRECT, SHOT
from tests.bpf.row import Row, Step, V, in_both_families, syn, web
from tests.fragments import AUTHENTICATION, DESTINATION_OPTIONS, FRAGMENT, HOP_OPTIONS, extended, fragments
from tests.packets import OWN_MAC, V4, V6, Cast, head, icmp, ip_layer, sctp, tcp, udp

BIG = b"big" * 60


def _told(name: str, frame: bytes, reason: V, told: V, wanted: bytes, before: Step) -> Row:
    return Row(name, "from_pod", frame, reason, REDIRECT, wanted, before, events=(told,))


def _silent(name: str, frame: bytes, reason: V, before: Step) -> Row:
    return Row(name, "from_pod", frame, reason, SHOT, None, before)


def _turned(frame: bytes) -> Packet:
    """Ethernet and IP of an answer made out of the packet's own headers, nothing behind them."""
    asked = Ether(frame)
    ip = ip_layer(asked).copy()
    ip.remove_payload()
    ip.src, ip.dst = ip.dst, ip.src
    for length in ("len", "plen", "chksum"):
        if length in ip.fields:
            ip.delfieldval(length)
    return Ether(src=OWN_MAC, dst=OWN_MAC) / ip


def reset_of(frame: bytes) -> bytes:
    """The reset that RFC 9293, 3.10.7.1 asks for: seq = the segment's ack if it has one, else ack = seq + 1."""
    asked = Ether(frame)[TCP]
    answer = TCP(sport=asked.dport, dport=asked.sport, window=0, seq=0, ack=0)
    if "A" in asked.flags:
        answer.flags, answer.seq = "R", asked.ack
    else:
        answer.flags, answer.ack = "RA", asked.seq + 1
    return raw(_turned(frame) / answer)


def unreachable_of(frame: bytes, quoted: int = 8) -> bytes:
    """Port unreachable with the IP header (and all that comes before L4) and `quoted` bytes of L4."""
    asked = Ether(frame)
    ip = ip_layer(asked)
    if isinstance(ip, IP):
        size = ip.ihl * 4 + quoted
        answer: Packet = IP(src=ip.dst, dst=ip.src, ttl=64, id=0) / ICMP(type=3, code=3)
    else:
        size = len(frame) - 14 - _l4_size6(frame) + quoted
        answer = IPv6(src=ip.dst, dst=ip.src, hlim=64) / ICMPv6DestUnreach(code=4)
    return raw(Ether(src=OWN_MAC, dst=OWN_MAC) / answer / Raw(frame[14 : 14 + size]))


def _l4_size6(frame: bytes) -> int:
    """How much of an IPv6 frame of these rows is L4."""
    return len(frame) - 54 if frame[20] in (6, 17, 132) else len(udp(V6.client, V6.web)) - 54


def echo_reply_of(frame: bytes) -> bytes:
    asked = Ether(frame)
    if IPv6 in asked:
        old = asked[ICMPv6EchoRequest]
        return raw(_turned(frame) / ICMPv6EchoReply(id=old.id, seq=old.seq, data=old.data))
    old = asked[ICMP]
    return raw(_turned(frame) / ICMP(type=0, id=old.id, seq=old.seq) / old.payload)


def empty(cast: Cast, protocol: str, port: int = 80) -> Step:
    return lambda rig: rig.service((cast.vip, port, protocol), {})


def _told_rows(cast: Cast) -> list[Row]:
    reset, told = V.EVENT_REFUSED_RESET, V.EVENT_REFUSED_ICMP
    no_backend, unknown, no_flow = V.DROP_NO_BACKEND, V.DROP_UNKNOWN_PORT, V.DROP_NO_FLOW
    service = web(cast.far)
    frame, query, init = syn(cast), udp(cast.client, cast.web), sctp(cast.client, cast.web)
    other, other_query = tcp(cast.client, (cast.vip, 81)), udp(cast.client, (cast.vip, 81))
    rows = [
        _told("tcp-no-backends", frame, no_backend, reset, reset_of(frame), empty(cast, "TCP")),
        _told("tcp-unknown-port", other, unknown, reset, reset_of(other), service),
        _told("udp-no-backends", query, no_backend, told, unreachable_of(query), empty(cast, "UDP")),
        _told("udp-unknown-port", other_query, unknown, told, unreachable_of(other_query), service),
        _told("udp-twin-of-tcp-port", query, unknown, told, unreachable_of(query), service),
        _told("sctp-no-backends", init, no_backend, told, unreachable_of(init, 12), empty(cast, "SCTP")),
        _told("sctp-unknown-port", init, unknown, told, unreachable_of(init, 12), service),
    ]
    for flags in ("A", "PA", "FA", "SA"):
        segment = tcp(cast.client, cast.web, flags)
        rows.append(_told(f"tcp-mid-stream-{flags}", segment, no_flow, reset, reset_of(segment), service))
    stray = tcp(cast.client, (cast.vip, 81), "PA")
    data, small = tcp(cast.client, cast.web, "PA"), udp(cast.client, cast.web, data=b"")
    first = fragments(udp(cast.client, cast.web, data=BIG))[0]
    quoted = unreachable_of(first) if cast is V4 else unreachable6(first, 8)
    external = _external(cast)
    return [
        *rows,
        _told("tcp-unknown-port-mid-stream", stray, unknown, reset, reset_of(stray), service),
        _told("tcp-mid-stream-no-backends", data, no_flow, reset, reset_of(data), empty(cast, "TCP")),
        _told("udp-empty", small, no_backend, told, unreachable_of(small), empty(cast, "UDP")),
        _told("first-fragment", first, no_backend, told, quoted, empty(cast, "UDP")),
        _told("external-ip-no-backends", frame, no_backend, reset, reset_of(frame), external),
    ]


def unreachable6(frame: bytes, extensions: int, quoted: int = 8) -> bytes:
    """Port unreachable of an IPv6 frame with so many bytes of extension headers."""
    ip = Ether(frame)[IPv6]
    answer = IPv6(src=ip.dst, dst=ip.src, hlim=64) / ICMPv6DestUnreach(code=4)
    return raw(Ether(src=OWN_MAC, dst=OWN_MAC) / answer / Raw(frame[14 : 54 + extensions + quoted]))


def _external(cast: Cast) -> Step:
    return lambda rig: rig.service((*cast.web, "TCP"), {}, known=ADDRESS_FRONTEND)


def _echoes(cast: Cast) -> list[Row]:
    ping, long = icmp(cast.pod, cast.vip), _long_ping(cast)
    answered = [
        Row(name, "from_pod", frame, V.VERDICT_ECHO, REDIRECT, echo_reply_of(frame), web(cast.far))
        for name, frame in {"echo": ping, "echo-long": long}.items()
    ]
    return [*answered, _silent("echo-no-endpoints", ping, V.DROP_NO_BACKEND, empty(cast, "TCP"))]


def _long_ping(cast: Cast) -> bytes:
    echo = ICMPv6EchoRequest(id=3, seq=9, data=bytes(range(256)) * 5)
    if cast is V4:
        return raw(head(cast.pod, cast.vip) / ICMP(id=3, seq=9) / Raw(bytes(range(256)) * 5))
    return raw(head(cast.pod, cast.vip) / echo)


def _never_answered(cast: Cast) -> list[Row]:
    """No ICMP error about ICMP, a reset, a fragment without ports, a protocol without ports (RFC 1122, RFC 4443)."""
    service, no_backends = web(cast.far), empty(cast, "UDP")
    six = cast is V6
    quoted = Raw(raw(ip_layer(Ether(udp(cast.client, cast.web)))))
    errors = [ICMPv6DestUnreach(code=4), ICMPv6TimeExceeded()] if six else [ICMP(type=3, code=3), ICMP(type=11)]
    others = [*errors, ICMPv6EchoReply() if six else ICMP(type=0)]
    later = fragments(udp(cast.client, cast.web, data=BIG))[1]
    number = {"nh": 47} if six else {"proto": 47}
    gre = raw(head(cast.pod, cast.vip, **number) / Raw(bytes(40)))
    return [
        *(
            _silent(f"icmp-{index}", raw(head(cast.pod, cast.vip) / message / quoted), V.DROP_PROTOCOL, service)
            for index, message in enumerate(others)
        ),
        _silent("gre", gre, V.DROP_PROTOCOL, service),
        _silent("reset", tcp(cast.client, cast.web, "R"), V.DROP_NO_FLOW, service),
        _silent("reset-unknown-port", tcp(cast.client, (cast.vip, 81), "RA"), V.DROP_UNKNOWN_PORT, service),
        _silent("later-fragment-first-unknown", later, V.DROP_FRAGMENT, no_backends),
        _silent("icmp-cut", icmp(cast.pod, cast.vip)[: 60 if six else 40], V.DROP_MALFORMED, service),
        _silent("udp-cut", udp(cast.client, cast.web)[: 60 if six else 40], V.DROP_MALFORMED, no_backends),
    ]


def _odd_headers() -> list[Row]:
    """IPv4 options and IPv6 extension headers are quoted, and kept by a reset."""
    rows = []
    reset, told, reason = V.EVENT_REFUSED_RESET, V.EVENT_REFUSED_ICMP, V.DROP_NO_BACKEND
    for size in (4, 40):
        options = IPOption(bytes([0x9E, size]) + bytes(size - 2))
        frame, query = tcp(V4.client, V4.web, options=options), udp(V4.client, V4.web, options=options)
        rows.append(_told(f"tcp-options-{size}", frame, reason, reset, reset_of(frame), empty(V4, "TCP")))
        rows.append(_told(f"udp-options-{size}", query, reason, told, unreachable_of(query), empty(V4, "UDP")))
    chains = {
        "one": ((HOP_OPTIONS, 8),),
        "several": ((HOP_OPTIONS, 8), (DESTINATION_OPTIONS, 24), (FRAGMENT, 8), (AUTHENTICATION, 12)),
        "as-long-as-is-quoted": ((DESTINATION_OPTIONS, 64),),
    }
    for name, chain in chains.items():
        bytes_of_chain = sum(size for _, size in chain)
        query, frame = extended(udp(V6.client, V6.web), *chain), extended(syn(V6), *chain)
        plain = reset_of(syn(V6))
        rows.append(_told(f"udp-extensions-{name}", query, reason, told, unreachable6(query, bytes_of_chain),
                          empty(V6, "UDP")))  # fmt: skip
        rows.append(_told(f"tcp-extensions-{name}", frame, reason, reset, extended(plain, *chain), empty(V6, "TCP")))
    return rows


ROWS = [*in_both_families(_told_rows, _echoes, _never_answered), *_odd_headers()]
