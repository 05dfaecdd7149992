"""Who is who in packet tests, and the frames they send. Source and destination MAC are always given.

One node with uplink `UPLINK` and an ipvlan pod `pod_one` on it; pods of an ipvlan uplink share the uplink's MAC.
"""

from __future__ import annotations

import difflib

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

OWN_MAC = "02:00:00:00:00:01"
GATEWAY_MAC = "02:00:00:00:00:fe"
REMOTE_MAC = "02:00:00:00:00:20"

UPLINK = 2
OTHER_UPLINK = 3

POD_ONE = "10.1.0.10"
SIBLING = "10.1.0.11"
NODE_ONE = "10.1.0.2"
GATEWAY = "10.1.0.1"
ON_LINK = "10.1.0.20"  # a pod of another node, in pod_one's subnet; its MAC is known
ON_LINK_UNKNOWN = "10.1.0.21"  # the same, its MAC is not known yet
BLACKHOLE = "10.1.0.66"
FAR = "10.9.0.30"
OTHER_UPLINK_POD = "10.2.0.5"
VIP, VIP_TWO = "10.96.0.10", "10.96.0.11"

POD_ONE_V6 = "fd00:1::10"
SIBLING_V6 = "fd00:1::11"
NODE_ONE_V6 = "fd00:1::2"
GATEWAY_V6 = "fd00:1::1"
ON_LINK_V6 = "fd00:1::20"
FAR_V6 = "fd00:9::30"
VIP_V6 = "fd00:96::10"


def tcp(
    src: tuple[str, int], dst: tuple[str, int], flags: str = "S", *, dmac: str = GATEWAY_MAC, **ip: object
) -> bytes:
    """A TCP segment with payload, sequence numbers and options that must come through untouched."""
    segment = TCP(sport=src[1], dport=dst[1], flags=flags, seq=1000, ack=7, options=[("MSS", 1460)])
    return raw(Ether(src=OWN_MAC, dst=dmac) / IP(src=src[0], dst=dst[0], **ip) / segment / Raw(b"hello"))


def udp(src: tuple[str, int], dst: tuple[str, int], *, dmac: str = GATEWAY_MAC, checksum: int | None = None) -> bytes:
    """A UDP datagram; `checksum` 0 means none."""
    datagram = UDP(sport=src[1], dport=dst[1], chksum=checksum)
    return raw(Ether(src=OWN_MAC, dst=dmac) / IP(src=src[0], dst=dst[0]) / datagram / Raw(b"query"))


def icmp(src: str, dst: str, *, dmac: str = GATEWAY_MAC) -> bytes:
    """A ping."""
    return raw(Ether(src=OWN_MAC, dst=dmac) / IP(src=src, dst=dst) / ICMP(id=1, seq=1) / Raw(b"ping"))


def fragment(src: tuple[str, int], dst: tuple[str, int], *, first: bool, dmac: str = GATEWAY_MAC) -> bytes:
    """A fragment of a UDP datagram: the first (with ports) or a later one (payload that would look like ports)."""
    head = Ether(src=OWN_MAC, dst=dmac) / IP(
        src=src[0], dst=dst[0], flags="MF" if first else 0, frag=0 if first else 64
    )
    if first:
        return raw(head / UDP(sport=src[1], dport=dst[1], len=600) / Raw(b"x" * 64))
    head.proto = 17
    return raw(head / Raw(src[1].to_bytes(2, "big") + dst[1].to_bytes(2, "big") + b"x" * 60))


def ipv6(src: str, dst: str, *, dmac: str) -> bytes:
    """A UDP datagram over IPv6."""
    return raw(Ether(src=OWN_MAC, dst=dmac) / IPv6(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(b"six"))


def arp(sender: str, target: str) -> bytes:
    """An ARP request, broadcast."""
    return raw(Ether(src=OWN_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=OWN_MAC, psrc=sender, pdst=target))


def readdressed(frame: bytes, *, dmac: str = "", **change: object) -> bytes:
    """Give the frame with other addresses (`src`, `dst`) and ports (`sport`, `dport`), all checksums computed anew.

    This is the oracle: it builds the frame that should be, it does not patch sums. A zero UDP checksum stays zero.
    """
    packet = Ether(frame)
    if dmac:
        packet.dst = dmac
    for name in ("src", "dst"):
        if name in change:
            setattr(packet[IP], name, change[name])
    layer = packet[TCP] if TCP in packet else packet[UDP]
    for name in ("sport", "dport"):
        if name in change:
            setattr(layer, name, change[name])
    del packet[IP].chksum
    if UDP not in packet or layer.chksum:
        del layer.chksum
    return raw(packet)


def difference(found: bytes, wanted: bytes) -> str:
    """Two frames side by side as scapy reads them: what a failing test prints."""
    texts = [Packet.show2(Ether(frame), dump=True).splitlines() for frame in (wanted, found)]
    return "\n".join(difflib.unified_diff(*texts, "wanted", "found", lineterm="", n=30))
