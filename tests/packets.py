"""Who is who in packet tests, and the frames they send. Source and destination MAC are always given.

One node with uplink `UPLINK` and an ipvlan pod `pod_one` on it; pods of an ipvlan uplink share the uplink's MAC. The
same cast plays in both families: `V4` and `V6`; every builder takes addresses of either.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from scapy.compat import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.sctp import SCTP, SCTPChunkAbort, SCTPChunkData, SCTPChunkInit, SCTPChunkShutdown
from scapy.packet import Packet, Raw

OWN_MAC = "02:00:00:00:00:01"
GATEWAY_MAC = "02:00:00:00:00:fe"
REMOTE_MAC = "02:00:00:00:00:20"
STRANGER_MAC = "02:00:00:00:00:66"

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

End = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Cast:
    """The addresses of everybody, in one family."""

    name: str
    pod: str
    sibling: str
    node: str
    gateway: str
    on_link: str
    far: str
    far_two: str
    other_uplink_pod: str
    other_node: str
    vip: str
    vip_two: str
    router: str
    hairpin: str
    any: str
    multicast: str

    @property
    def client(self) -> End:
        """Where the pod's flows start."""
        return self.pod, 40000

    @property
    def web(self) -> End:
        """The Service."""
        return self.vip, 80

    @property
    def backend(self) -> End:
        """Its usual backend."""
        return self.far, 8080

    def far_pod(self, number: int) -> str:
        """Give one of many pods behind the gateway."""
        return f"fd00:9::1:{number}" if ":" in self.far else f"10.9.1.{number}"


V4 = Cast(
    "v4", POD_ONE, SIBLING, NODE_ONE, GATEWAY, ON_LINK, FAR, "10.9.0.31", OTHER_UPLINK_POD,
    "10.1.0.3", VIP, VIP_TWO, "10.250.0.1", "169.254.202.1", "0.0.0.0", "224.0.0.251",
)  # fmt: skip
V6 = Cast(
    "v6", POD_ONE_V6, SIBLING_V6, NODE_ONE_V6, GATEWAY_V6, ON_LINK_V6, FAR_V6,
    "fd00:9::31", "fd00:2::5", "fd00:1::3", VIP_V6, "fd00:96::11", "fd00:250::1", "fd3c:7d1a:9e42::1", "::", "ff02::fb",
)  # fmt: skip
CASTS = (V4, V6)


def cast_of(address: str) -> Cast:
    """Give the cast of an address's family."""
    return V6 if ":" in address else V4


def mac(text: str) -> bytes:
    """Give a MAC as it lies in a frame."""
    return bytes.fromhex(text.replace(":", ""))


def head(src: str, dst: str, *, dmac: str = GATEWAY_MAC, **ip: object) -> Packet:
    """Ethernet and IP of either family."""
    return Ether(src=OWN_MAC, dst=dmac) / (IPv6 if ":" in src else IP)(src=src, dst=dst, **ip)


def tcp(src: End, dst: End, flags: str = "S", *, dmac: str = GATEWAY_MAC, **ip: object) -> bytes:
    """A TCP segment with payload, sequence numbers and options that must come through untouched."""
    segment = TCP(sport=src[1], dport=dst[1], flags=flags, seq=1000, ack=7, options=[("MSS", 1460)])
    return raw(head(src[0], dst[0], dmac=dmac, **ip) / segment / Raw(b"hello"))


def udp(
    src: End, dst: End, *, dmac: str = GATEWAY_MAC, checksum: int | None = None, data: bytes = b"query", **ip: object
) -> bytes:
    """A UDP datagram; `checksum` 0 means none."""
    datagram = UDP(sport=src[1], dport=dst[1], chksum=checksum)
    return raw(head(src[0], dst[0], dmac=dmac, **ip) / datagram / Raw(data))


CHUNKS = {
    "init": SCTPChunkInit(init_tag=9),
    "data": SCTPChunkData(tsn=5, data=b"chunk"),
    "abort": SCTPChunkAbort(),
    "shutdown": SCTPChunkShutdown(cumul_tsn_ack=4),
}


def sctp(src: End, dst: End, chunk: str = "init", *, dmac: str = GATEWAY_MAC) -> bytes:
    """An SCTP packet of one chunk."""
    return raw(head(src[0], dst[0], dmac=dmac) / SCTP(sport=src[1], dport=dst[1], tag=3) / CHUNKS[chunk])


def icmp(src: str, dst: str, *, dmac: str = GATEWAY_MAC, **ip: object) -> bytes:
    """A ping."""
    echo = ICMPv6EchoRequest(id=1, seq=1) if ":" in src else ICMP(id=1, seq=1)
    return raw(head(src, dst, dmac=dmac, **ip) / echo / Raw(b"ping"))


def ipv6(src: str, dst: str, *, dmac: str) -> bytes:
    """A UDP datagram over IPv6."""
    return raw(Ether(src=OWN_MAC, dst=dmac) / IPv6(src=src, dst=dst) / UDP(sport=1, dport=2) / Raw(b"six"))


def arp(sender: str, target: str, *, mac: str = OWN_MAC, smac: str = OWN_MAC, op: int = 1) -> bytes:
    """An ARP message, broadcast; `mac` is the sender's in the message, `smac` the frame's."""
    message = ARP(op=op, hwsrc=mac, psrc=sender, pdst=target, hwdst="00:00:00:00:00:00")
    return raw(Ether(src=smac, dst="ff:ff:ff:ff:ff:ff") / message)


def ip_layer(packet: Packet) -> Packet:
    """Give the (outer) IP header of either family."""
    return packet[IPv6] if packet.type == 0x86DD else packet[IP]


def readdressed(frame: bytes, *, dmac: str = "", **change: object) -> bytes:
    """Give the frame with other addresses (`src`, `dst`) and ports (`sport`, `dport`), all checksums computed anew.

    This is the oracle: it builds the frame that should be, it does not patch sums. A zero UDP checksum stays zero;
    SCTP's covers no address and stays.
    """
    packet = Ether(frame)
    if dmac:
        packet.dst = dmac
    ip = ip_layer(packet)
    for name in ("src", "dst"):
        if name in change:
            setattr(ip, name, change[name])
    layer = next((packet[kind] for kind in (TCP, UDP, SCTP) if kind in packet), None)
    for name in ("sport", "dport"):
        if name in change and layer is not None and getattr(layer, name) != change[name]:
            assert not isinstance(layer, SCTP), "SCTP ports are never changed"
            setattr(layer, name, change[name])
    if isinstance(ip, IP):
        del ip.chksum
    if isinstance(layer, TCP) or (isinstance(layer, UDP) and layer.chksum):
        del layer.chksum
    return raw(packet)


def difference(found: bytes, wanted: bytes) -> str:
    """Two frames side by side as scapy reads them: what a failing test prints."""
    texts = [Packet.show2(Ether(frame), dump=True).splitlines() for frame in (wanted, found)]
    return "\n".join(difflib.unified_diff(*texts, "wanted", "found", lineterm="", n=30))
