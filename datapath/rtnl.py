"""The rtnetlink messages of a pod's start and end, packed by hand.

Pure: numbers and bytes in, bytes out. pyroute2 encodes one message in about 100 us, this file in about 2, and one ADD
needs a dozen of them. Only what the hot path sends is here; everything else is read through `datapath.netlink`.

Layouts: linux/netlink.h, if_link.h, if_addr.h, rtnetlink.h, neighbour.h, pkt_sched.h, pkt_cls.h. Every message is
compared with pyroute2's decoder in tests/unit/test_rtnl.py.

Theory of a batch: the kernel handles the messages of one sendmsg(2) in order and goes on after one that fails. An
error is always answered, a success only where NLM_F_ACK is set; so `batch` sets NLM_F_ACK on the last message alone and
the answer of a good batch is one datagram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from struct import Struct

from datapath.subnets import packed, split

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR = 2
NLMSGERR_ATTR_MSG = 1

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR = 20, 21
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
RTM_NEWQDISC = 36
RTM_NEWTFILTER = 44

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 5, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFF_UP, IFF_NOARP = 0x1, 0x80
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST = 1, 2, 4
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PREFSRC = 1, 4, 5, 7
RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 254, 4, 1
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 0, 253, 255
RTNH_F_ONLINK = 4
NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_BPF_FD, TCA_BPF_NAME, TCA_BPF_FLAGS = 6, 7, 8
TCA_BPF_FLAG_ACT_DIRECT = 1
CLSACT_PARENT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
ETH_P_ALL_BE = 0x0300

# How each link kind writes its mode: (struct of the number, number per name). Mode is attribute 1 of both kinds;
# ipvlan's flags (attribute 2, 0 = bridge) are left alone because they belong to the whole uplink.
LINK_MODES = {
    "ipvlan": (Struct("=H"), {"l2": 0, "l3": 1, "l3s": 2}),
    "macvlan": (Struct("=I"), {"private": 1, "vepa": 2, "bridge": 4}),
}

_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port id
_ATTRIBUTE = Struct("=HH")  # nlattr: length, type
_U32 = Struct("=I")
_IFINFO = Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_IFADDR = Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = Struct("=BBBBBBBBI")  # rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags
_NEIGHBOUR = Struct("=BxxxiHBB")  # ndmsg: family, ifindex, state, flags, type
_TRAFFIC = Struct("=BxxxiIII")  # tcmsg: family, ifindex, handle, parent, info
_ERRNO = Struct("=i")
_SEQUENCE_OFFSET, _FLAGS_OFFSET = 8, 6
_U16 = Struct("=H")


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A slave to create: `kind` "ipvlan" or "macvlan", `mode` a key of LINK_MODES, `mtu` 0 = the uplink's.

    `mac` is 6 bytes, or b"" to let the kernel choose (an ipvlan slave always has the uplink's).
    """

    kind: str
    mode: str
    name: str
    ifindex: int
    uplink_ifindex: int
    mtu: int
    mac: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """The kernel's word on one message: `errno` 0 = done; `text` is the extended acknowledgement's, often empty."""

    sequence: int
    errno: int
    text: str


def new_link(spec: LinkSpec, netns_fd: int | None) -> bytes:
    """Create a slave directly in the netns of `netns_fd`, under its final name and number (no move, no rename).

    None: in the netns of the socket.

    With a chosen ifindex the kernel looks for an existing link by that number only, so a node's own "eth0" does not
    get in the way of a pod's "eth0" (without it, NLM_F_EXCL would answer EEXIST).
    """
    number, modes = LINK_MODES[spec.kind]
    data = _attribute(1, number.pack(modes[spec.mode]))
    info = _attribute(IFLA_INFO_KIND, spec.kind.encode()) + _attribute(IFLA_INFO_DATA, data)
    body = [
        _IFINFO.pack(0, 0, spec.ifindex, 0, 0),
        _attribute(IFLA_IFNAME, spec.name.encode() + b"\0"),
        _attribute(IFLA_LINK, _U32.pack(spec.uplink_ifindex)),
        _attribute(IFLA_LINKINFO, info),
    ]
    if netns_fd is not None:
        body.append(_attribute(IFLA_NET_NS_FD, _U32.pack(netns_fd)))
    if spec.mtu:
        body.append(_attribute(IFLA_MTU, _U32.pack(spec.mtu)))
    if spec.mac:
        body.append(_attribute(IFLA_ADDRESS, spec.mac))
    return _message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def link_up(ifindex: int, *, noarp: bool = False) -> bytes:
    """Set the link up; `noarp`: it neither asks nor answers ARP and ND."""
    flags = IFF_UP | (IFF_NOARP if noarp else 0)
    return _message(RTM_NEWLINK, 0, [_IFINFO.pack(0, 0, ifindex, flags, flags)])


def get_link(ifindex: int) -> bytes:
    """Ask for one link; only its acknowledgement is of use here (ENODEV = absent)."""
    return _message(RTM_GETLINK, 0, [_IFINFO.pack(0, 0, ifindex, 0, 0)])


def delete_link(ifindex: int) -> bytes:
    """Delete the link; waits for RCU grace periods (8 to 16 ms)."""
    return _message(RTM_DELLINK, 0, [_IFINFO.pack(0, 0, ifindex, 0, 0)])


def new_address(ifindex: int, address: str, prefix: int) -> bytes:
    """Add an address. IPv4 gets the subnet's broadcast, IPv6 NODAD (uniqueness is the pool's and the prober's work)."""
    raw = packed(address)
    if len(raw) == 16:
        head = _IFADDR.pack(AF_INET6, prefix, IFA_F_NODAD, RT_SCOPE_UNIVERSE, ifindex)
        return _message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, [head, _attribute(IFA_LOCAL, raw)])
    body = [
        _IFADDR.pack(AF_INET, prefix, 0, RT_SCOPE_UNIVERSE, ifindex),
        _attribute(IFA_LOCAL, raw),
        _attribute(IFA_ADDRESS, raw),
    ]
    if prefix < 31:
        broadcast = int.from_bytes(raw, "big") | ((1 << (32 - prefix)) - 1)
        body.append(_attribute(IFA_BROADCAST, broadcast.to_bytes(4, "big")))
    return _message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_address(ifindex: int, address: str, prefix: int) -> bytes:
    """Remove an address; this also frees it in ipvlan's table of the uplink."""
    raw = packed(address)
    head = _IFADDR.pack(AF_INET6 if len(raw) == 16 else AF_INET, prefix, 0, 0, ifindex)
    return _message(RTM_DELADDR, 0, [head, _attribute(IFA_LOCAL, raw)])


def new_route(
    ifindex: int, destination: str, gateway: str, *, onlink: bool = False, replace: bool = False, source: str = ""
) -> bytes:
    """Add a route to `destination` "a/b" by the link; `gateway` "" = the destination is on the link itself.

    `onlink`: the gateway is outside every subnet of the link. `replace`: take the place of an equal route. `source`:
    the address that the host uses towards it; "" = the kernel chooses.
    """
    head = _route_head(destination, RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK, RTNH_F_ONLINK if onlink else 0)
    body = [*head, _attribute(RTA_OIF, _U32.pack(ifindex))]
    if gateway:
        body.append(_attribute(RTA_GATEWAY, packed(gateway)))
    if source:
        body.append(_attribute(RTA_PREFSRC, packed(source)))
    return _message(RTM_NEWROUTE, NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL), body)


def delete_route(ifindex: int, destination: str) -> bytes:
    """Delete the static route to `destination` "a/b" by that link, whatever its scope."""
    body = [*_route_head(destination, RT_SCOPE_NOWHERE, 0), _attribute(RTA_OIF, _U32.pack(ifindex))]
    return _message(RTM_DELROUTE, 0, body)


def new_neighbour(ifindex: int, address: str, mac: bytes) -> bytes:
    """A permanent neighbour, in the place of any entry there is."""
    raw = packed(address)
    head = _NEIGHBOUR.pack(AF_INET6 if len(raw) == 16 else AF_INET, ifindex, NUD_PERMANENT, 0, 0)
    body = [head, _attribute(NDA_DST, raw), _attribute(NDA_LLADDR, mac)]
    return _message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def delete_neighbour(ifindex: int, address: str) -> bytes:
    """Delete a neighbour entry."""
    raw = packed(address)
    head = _NEIGHBOUR.pack(AF_INET6 if len(raw) == 16 else AF_INET, ifindex, 0, 0, 0)
    return _message(RTM_DELNEIGH, 0, [head, _attribute(NDA_DST, raw)])


def new_clsact(ifindex: int) -> bytes:
    """Add the clsact qdisc. On a link that is up this waits for an RCU grace period: send it before `link_up`."""
    head = _TRAFFIC.pack(0, ifindex, CLSACT_HANDLE, CLSACT_PARENT, 0)
    return _message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, [head, _attribute(TCA_KIND, b"clsact\0")])


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """A direct-action BPF filter on clsact: `parent` CLSACT_INGRESS or CLSACT_EGRESS, `fd` of the program."""

    ifindex: int
    parent: int
    preference: int
    handle: int
    name: str
    fd: int


def new_bpf_filter(spec: FilterSpec, *, replace: bool = False) -> bytes:
    """Attach the program; `replace` swaps it atomically with the one at the same preference and handle."""
    options = (
        _attribute(TCA_BPF_FD, _U32.pack(spec.fd))
        + _attribute(TCA_BPF_NAME, spec.name.encode() + b"\0")
        + _attribute(TCA_BPF_FLAGS, _U32.pack(TCA_BPF_FLAG_ACT_DIRECT))
    )
    head = _TRAFFIC.pack(0, spec.ifindex, spec.handle, spec.parent, spec.preference << 16 | ETH_P_ALL_BE)
    body = [head, _attribute(TCA_KIND, b"bpf\0"), _attribute(TCA_OPTIONS, options)]
    return _message(RTM_NEWTFILTER, NLM_F_CREATE | (0 if replace else NLM_F_EXCL), body)


def batch(messages: Sequence[bytes], first_sequence: int) -> bytearray:
    """The messages as one datagram, numbered from `first_sequence`; the last one asks for an acknowledgement."""
    datagram = bytearray().join(messages)
    offset = last = 0
    for number, message in enumerate(messages, first_sequence):
        _U32.pack_into(datagram, offset + _SEQUENCE_OFFSET, number & 0xFFFFFFFF)
        last = offset
        offset += len(message)
    flags = _U16.unpack_from(datagram, last + _FLAGS_OFFSET)[0]
    _U16.pack_into(datagram, last + _FLAGS_OFFSET, flags | NLM_F_ACK)
    return datagram


def acks(datagram: bytes) -> Iterator[Ack]:
    """Every NLMSG_ERROR in a received datagram (other messages are passed over). Needs NETLINK_CAP_ACK."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        if kind == NLMSG_ERROR:
            body = offset + _HEADER.size
            # nlmsgerr: the error number, then the header of the message it answers, then (if flagged) attributes.
            tail = body + _ERRNO.size + _HEADER.size if flags & NLM_F_ACK_TLVS else offset + length
            yield Ack(sequence, -_ERRNO.unpack_from(datagram, body)[0], _ack_text(datagram[tail : offset + length]))
        offset += (length + 3) & ~3


def _ack_text(attributes: bytes) -> str:
    offset = 0
    while offset + _ATTRIBUTE.size <= len(attributes):
        length, kind = _ATTRIBUTE.unpack_from(attributes, offset)
        if length < _ATTRIBUTE.size:
            break
        if kind == NLMSGERR_ATTR_MSG:
            return attributes[offset + _ATTRIBUTE.size : offset + length].rstrip(b"\0").decode(errors="replace")
        offset += (length + 3) & ~3
    return ""


def _route_head(destination: str, scope: int, flags: int) -> Iterable[bytes]:
    address, length = split(destination)
    raw = packed(address)
    family = AF_INET6 if len(raw) == 16 else AF_INET
    head = _ROUTE.pack(family, length, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST, flags)
    return (head, _attribute(RTA_DST, raw)) if length else (head,)


def _attribute(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 4
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length & 3)


def _message(kind: int, flags: int, body: Iterable[bytes]) -> bytes:
    payload = b"".join(body)
    return _HEADER.pack(_HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 0, 0) + payload
