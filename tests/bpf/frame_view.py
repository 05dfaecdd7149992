"""A frame as a reader sees it who shares no line with bpf/lib/parse.h: slow, simple, and in the fuzz test the judge."""

from __future__ import annotations

import socket
from dataclasses import dataclass

TCP, UDP, SCTP, ICMP, ICMP6 = 6, 17, 132, 1, 58
_WITH_PORTS = {TCP: 20, UDP: 8, SCTP: 16}
_EXTENSIONS = (0, 43, 60)
_MAX_EXTENSIONS = 6


@dataclass(slots=True)
class View:
    """`l4_at` is where L4 begins, None when it is not there (a later fragment, a frame cut short)."""

    kind: str
    smac: bytes
    source: str = ""
    destination: str = ""
    protocol: int = -1
    l4_at: int | None = None
    ports: tuple[int, int] | None = None
    later: bool = False


def view(frame: bytes) -> View:
    """Read a frame: kind is "v4", "v6", "arp", "other", or "broken" when it cannot be read."""
    kind = {b"\x08\x00": "v4", b"\x86\xdd": "v6", b"\x08\x06": "arp"}.get(frame[12:14], "other")
    seen = View(kind, frame[6:12])
    if kind == "v4":
        _read4(frame, seen)
    elif kind == "v6":
        _read6(frame, seen)
    elif kind == "arp" and len(frame) >= 42:
        seen.source = socket.inet_ntoa(frame[28:32])
    elif kind == "arp":
        seen.kind = "broken"
    return seen


def _read4(frame: bytes, seen: View) -> None:
    if len(frame) < 34 or frame[14] >> 4 != 4 or frame[14] & 15 < 5:
        seen.kind = "broken"
        return
    seen.source, seen.destination = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
    seen.protocol = frame[23]
    seen.later = int.from_bytes(frame[20:22], "big") & 0x1FFF != 0
    if not seen.later:
        _read_l4(frame, seen, 14 + (frame[14] & 15) * 4)


def _read6(frame: bytes, seen: View) -> None:
    if len(frame) < 54 or frame[14] >> 4 != 6:
        seen.kind = "broken"
        return
    seen.source, seen.destination = (socket.inet_ntop(socket.AF_INET6, frame[at : at + 16]) for at in (22, 38))
    following, at = frame[20], 54
    for _ in range(_MAX_EXTENSIONS + 1):
        if following == 44 and len(frame) >= at + 8:
            following, offset, at = frame[at], int.from_bytes(frame[at + 2 : at + 4], "big"), at + 8
            seen.later = offset & 0xFFF8 != 0
            if seen.later:
                break
        elif following in _EXTENSIONS and len(frame) >= at + 2:
            following, at = frame[at], at + (frame[at + 1] + 1) * 8
        elif following == 51 and len(frame) >= at + 2:
            following, at = frame[at], at + (frame[at + 1] + 2) * 4
        else:
            break
    else:
        seen.kind = "broken"
    if following in (*_EXTENSIONS, 44, 51) and not seen.later:
        seen.kind = "broken"
    seen.protocol = following
    if seen.kind == "v6" and not seen.later:
        _read_l4(frame, seen, at)


def _read_l4(frame: bytes, seen: View, at: int) -> None:
    if len(frame) < at + _WITH_PORTS.get(seen.protocol, 8):
        return
    seen.l4_at = at
    if seen.protocol in _WITH_PORTS:
        seen.ports = int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")


def summed(data: bytes) -> int:
    """Give the one's complement sum of 16-bit words (0 stands for 0xffff)."""
    return int.from_bytes(data + b"\0" if len(data) % 2 else data, "big") % 0xFFFF


def sums(frame: bytes, seen: View) -> tuple[int, int]:
    """Give what no rewrite may change: the sum over an IPv4 header, and over what the L4 checksum covers.

    Neither depends on lengths, so a wrong checksum counts as much as a right one: it must stay as wrong.
    """
    addresses = frame[26:34] if seen.kind == "v4" else frame[22:54]
    header = summed(frame[14 : 14 + (frame[14] & 15) * 4]) if seen.kind == "v4" else 0
    if seen.l4_at is None or seen.protocol in (SCTP, *((ICMP,) if seen.kind == "v4" else ())):
        addresses = b""
    at = seen.l4_at or len(frame)
    if seen.protocol == UDP and seen.l4_at and frame[at + 6 : at + 8] == b"\0\0":
        return header, -1  # no checksum: none may come into being, and ports change
    return header, summed(addresses + frame[at:])
