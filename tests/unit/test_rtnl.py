"""Every hand-packed rtnetlink message, read back by pyroute2's decoder: a second, independent reader of the layouts."""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from datapath import rtnl

ACK, CREATE, EXCL, REPLACE, REQUEST = 0x4, 0x400, 0x200, 0x100, 0x1


def decode(message: bytes) -> dict[str, Any]:
    """The message as pyroute2 reads it: its fields, attributes (nested ones as dicts) and header flags."""
    (read,) = MarshalRtnl().parse(bytes(rtnl.batch([message], 1)))
    fields = {key: value for key, value in read.items() if key not in ("attrs", "header", "__align", "__pad")}
    assert read["header"]["length"] == len(message)
    return {**fields, "flags of header": read["header"]["flags"], **attributes(read)}


def attributes(read: Any) -> dict[str, Any]:
    """Nested attribute lists as nested dicts."""
    return {name: attributes(value) if hasattr(value, "keys") else value for name, value in read["attrs"]}


def holds(message: bytes, **wanted: Any) -> None:
    """Assert that the message has exactly these attributes and (at least) these fields."""
    read = decode(message)
    names = {key for key in read if key[:4] in ("IFLA", "IFA_", "RTA_", "NDA_", "TCA_")}
    assert names == {key for key in wanted if key[:4] in ("IFLA", "IFA_", "RTA_", "NDA_", "TCA_")}
    assert {key: read[key] for key in wanted if key != "header"} == {k: v for k, v in wanted.items() if k != "header"}
    assert read["flags of header"] == wanted["header"] | REQUEST | ACK


def test_new_link_of_ipvlan_goes_straight_into_the_netns_under_its_final_name_and_number() -> None:
    spec = rtnl.LinkSpec("ipvlan", "l2", "eth0", 0x100001, 3, 1400, b"")
    holds(
        rtnl.new_link(spec, 7),
        event="RTM_NEWLINK",
        index=0x100001,
        IFLA_IFNAME="eth0",
        IFLA_LINK=3,
        IFLA_NET_NS_FD=7,
        IFLA_MTU=1400,
        IFLA_LINKINFO={"IFLA_INFO_KIND": "ipvlan", "IFLA_INFO_DATA": {"IFLA_IPVLAN_MODE": 0}},
        header=CREATE | EXCL,
    )


def test_new_link_of_macvlan_has_its_own_mac_and_no_mtu_unless_asked() -> None:
    spec = rtnl.LinkSpec("macvlan", "bridge", "net1", 0x100002, 3, 0, bytes.fromhex("020000000001"))
    holds(
        rtnl.new_link(spec, 7),
        event="RTM_NEWLINK",
        index=0x100002,
        IFLA_IFNAME="net1",
        IFLA_LINK=3,
        IFLA_NET_NS_FD=7,
        IFLA_ADDRESS="02:00:00:00:00:01",
        IFLA_LINKINFO={"IFLA_INFO_KIND": "macvlan", "IFLA_INFO_DATA": {"IFLA_MACVLAN_MODE": "bridge"}},
        header=CREATE | EXCL,
    )


@pytest.mark.parametrize(("mode", "number"), [("l2", 0), ("l3", 1), ("l3s", 2)])
def test_ipvlan_modes(mode: str, number: int) -> None:
    read = decode(rtnl.new_link(rtnl.LinkSpec("ipvlan", mode, "a", 9, 3, 0, b""), 7))
    assert read["IFLA_LINKINFO"]["IFLA_INFO_DATA"]["IFLA_IPVLAN_MODE"] == number


@pytest.mark.parametrize("mode", ["bridge", "vepa", "private"])
def test_macvlan_modes(mode: str) -> None:
    read = decode(rtnl.new_link(rtnl.LinkSpec("macvlan", mode, "a", 9, 3, 0, b""), 7))
    assert read["IFLA_LINKINFO"]["IFLA_INFO_DATA"]["IFLA_MACVLAN_MODE"] == mode


def test_link_up_get_and_delete() -> None:
    holds(rtnl.link_up(5), event="RTM_NEWLINK", index=5, flags=1, change=1, header=0)
    holds(rtnl.link_up(5, noarp=True), event="RTM_NEWLINK", index=5, flags=0x81, change=0x81, header=0)
    holds(rtnl.get_link(5), event="RTM_GETLINK", index=5, flags=0, change=0, header=0)
    holds(rtnl.delete_link(5), event="RTM_DELLINK", index=5, flags=0, change=0, header=0)


def test_new_ipv4_address_has_the_broadcast_of_its_subnet() -> None:
    head = {"event": "RTM_NEWADDR", "family": 2, "index": 5, "scope": 0, "flags": 0, "header": CREATE | EXCL}
    both = {"IFA_LOCAL": "10.0.0.9", "IFA_ADDRESS": "10.0.0.9"}
    holds(rtnl.new_address(5, "10.0.0.9", 20), prefixlen=20, **both, IFA_BROADCAST="10.0.15.255", **head)
    holds(rtnl.new_address(5, "10.0.0.9", 31), prefixlen=31, **both, **head)
    holds(rtnl.new_address(5, "10.0.0.9", 32), prefixlen=32, **both, **head)


def test_new_ipv6_address_is_nodad() -> None:
    holds(
        rtnl.new_address(5, "fd00::9", 64),
        event="RTM_NEWADDR",
        family=10,
        index=5,
        prefixlen=64,
        flags=0x02,
        IFA_LOCAL="fd00::9",
        header=CREATE | EXCL,
    )


@pytest.mark.parametrize(("address", "family", "prefix"), [("10.0.0.9", 2, 24), ("fd00::9", 10, 64)])
def test_delete_address(address: str, family: int, prefix: int) -> None:
    message = rtnl.delete_address(5, address, prefix)
    holds(message, event="RTM_DELADDR", family=family, index=5, prefixlen=prefix, IFA_LOCAL=address, header=0)


@pytest.mark.parametrize(
    ("destination", "gateway", "family", "length", "network"),
    [
        ("0.0.0.0/0", "10.0.0.254", 2, 0, None),
        ("10.1.0.0/16", "10.0.0.254", 2, 16, "10.1.0.0"),
        ("::/0", "fd00::1", 10, 0, None),
        ("fd01::/48", "fd00::1", 10, 48, "fd01::"),
    ],
)
def test_new_route_by_a_gateway(destination: str, gateway: str, family: int, length: int, network: str | None) -> None:
    wanted = {"RTA_OIF": 5, "RTA_GATEWAY": gateway} | ({"RTA_DST": network} if network else {})
    head = {"event": "RTM_NEWROUTE", "family": family, "dst_len": length, "table": 254, "proto": 4, "type": 1}
    holds(rtnl.new_route(5, destination, gateway), scope=0, flags=0, header=CREATE | EXCL, **head, **wanted)
    message = rtnl.new_route(5, destination, gateway, onlink=True)
    holds(message, scope=0, flags=4, header=CREATE | EXCL, **head, **wanted)


@pytest.mark.parametrize(
    ("destination", "family", "length", "network"),
    [("10.0.0.9/32", 2, 32, "10.0.0.9"), ("fd00::9/128", 10, 128, "fd00::9"), ("10.0.0.9", 2, 32, "10.0.0.9")],
)
def test_on_link_route_and_its_deletion(destination: str, family: int, length: int, network: str) -> None:
    wanted = {"family": family, "dst_len": length, "table": 254, "proto": 4, "RTA_DST": network, "RTA_OIF": 5}
    message = rtnl.new_route(5, destination, "", replace=True)
    holds(message, event="RTM_NEWROUTE", scope=253, header=CREATE | REPLACE, **wanted)
    holds(rtnl.delete_route(5, destination), event="RTM_DELROUTE", scope=255, header=0, **wanted)


@pytest.mark.parametrize(("address", "family"), [("10.0.0.9", 2), ("fd00::9", 10)])
def test_permanent_neighbour_and_its_deletion(address: str, family: int) -> None:
    message = rtnl.new_neighbour(5, address, bytes.fromhex("020000000001"))
    wanted = {"family": family, "ifindex": 5, "NDA_DST": address}
    mac = {"NDA_LLADDR": "02:00:00:00:00:01"}
    holds(message, event="RTM_NEWNEIGH", state=0x80, header=CREATE | REPLACE, **wanted, **mac)
    holds(rtnl.delete_neighbour(5, address), event="RTM_DELNEIGH", header=0, **wanted)


def test_clsact() -> None:
    wanted = {"index": 5, "handle": 0xFFFF0000, "parent": 0xFFFFFFF1, "TCA_KIND": "clsact"}
    holds(rtnl.new_clsact(5), event="RTM_NEWQDISC", header=CREATE | EXCL, **wanted)


@pytest.mark.parametrize(("parent", "minor"), [(rtnl.CLSACT_INGRESS, 0xFFF2), (rtnl.CLSACT_EGRESS, 0xFFF3)])
@pytest.mark.parametrize(("replace", "flags"), [(False, CREATE | EXCL), (True, CREATE)])
def test_direct_action_filter(parent: int, minor: int, replace: bool, flags: int) -> None:
    message = rtnl.new_bpf_filter(rtnl.FilterSpec(5, parent, 42, 0xD1, "hold_egress", 9), replace=replace)
    holds(
        message,
        event="RTM_NEWTFILTER",
        index=5,
        handle=0xD1,
        parent=0xFFFF0000 | minor,
        info=42 << 16 | struct.unpack("=H", b"\x00\x03")[0],
        TCA_KIND="bpf",
        TCA_OPTIONS={"TCA_BPF_FD": 9, "TCA_BPF_NAME": "hold_egress", "TCA_BPF_FLAGS": 1},
        header=flags,
    )


def test_a_batch_is_numbered_and_only_its_last_message_asks_for_an_answer() -> None:
    datagram = rtnl.batch([rtnl.link_up(1), rtnl.new_clsact(5), rtnl.link_up(5)], 41)
    headers = [read["header"] for read in MarshalRtnl().parse(bytes(datagram))]
    assert [header["sequence_number"] for header in headers] == [41, 42, 43]
    assert [bool(header["flags"] & ACK) for header in headers] == [False, False, True]


def test_the_numbers_of_a_batch_wrap() -> None:
    datagram = rtnl.batch([rtnl.link_up(1), rtnl.link_up(5)], 0xFFFFFFFF)
    assert [read["header"]["sequence_number"] for read in MarshalRtnl().parse(bytes(datagram))] == [0xFFFFFFFF, 0]


def answer(sequence: int, number: int, text: str = "", offset: int | None = None) -> bytes:
    """An NLMSG_ERROR as the kernel writes it with NETLINK_CAP_ACK and NETLINK_EXT_ACK."""
    tlvs = b""
    if offset is not None:
        tlvs += struct.pack("=HHI", 8, 2, offset)
    if text:
        raw = text.encode() + b"\0"
        tlvs += struct.pack("=HH", 4 + len(raw), 1) + raw + bytes(-len(raw) & 3)
    flags = 0x100 | (0x200 if tlvs else 0)
    body = struct.pack("=i", -number) + struct.pack("=IHHII", 99, 16, 5, sequence, 0) + tlvs
    return struct.pack("=IHHII", 16 + len(body), 2, flags, sequence, 77) + body


def test_acks_of_one_datagram() -> None:
    read = list(rtnl.acks(answer(1, errno.EEXIST, "Exclusivity flag on", offset=16) + answer(2, 0)))
    assert read == [rtnl.Ack(1, errno.EEXIST, "Exclusivity flag on"), rtnl.Ack(2, 0, "")]


def test_other_messages_between_acks_are_passed_over() -> None:
    (read,) = rtnl.acks(bytes(rtnl.batch([rtnl.link_up(1)], 7)) + answer(8, errno.EPERM))
    assert read == rtnl.Ack(8, errno.EPERM, "")


@pytest.mark.parametrize("cut", range(1, 48))
def test_a_cut_datagram_ends_quietly(cut: int) -> None:
    whole, broken = answer(1, 0), answer(2, errno.EEXIST, "text")
    assert len(broken) == 48
    assert list(rtnl.acks(whole + broken[:-cut])) == [rtnl.Ack(1, 0, "")]


def test_a_message_without_length_ends_the_reading() -> None:
    assert not list(rtnl.acks(bytes(64)))
