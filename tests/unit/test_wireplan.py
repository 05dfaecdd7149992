"""What a pod's wiring consists of, as decided without a kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datapath import wireplan
from datapath.netlink import NetlinkError, Uplink
from datapath.plans import EbpfPlan
from datapath.wireplan import HolderFds, PodAddress, PodWiring
from datapath.wiring import pod_entry

UPLINK = Uplink(3, "eth0", "02:00:00:00:00:01", 1500, ("10.7.0.1/24", "fd07::1/64"))
FOUR, SIX = PodAddress("10.7.0.20/24", "10.7.0.254"), PodAddress("fd07::20/64", "fd07::fe")
POD = PodWiring(
    kind="ipvlan",
    mode="l2",
    mtu=0,
    uplink=UPLINK,
    ifname="eth0",
    ifindex=0x100007,
    addresses=(FOUR, SIX),
    routes=(),
    default_route=True,
    node_addresses=("10.7.0.1", "fd07::1", "192.168.3.4"),
    container_id="c0ffee",
)
MACVLAN = replace(POD, kind="macvlan", mode="bridge")


def names(wiring: PodWiring) -> list[str]:
    return [step.name for step in wireplan.pod_steps(wiring, EbpfPlan().reach(wiring), HolderFds(5, 6))]


def node_names(wiring: PodWiring) -> list[str]:
    return [step.name for step in wireplan.node_steps(wiring, EbpfPlan().reach(wiring))]


def undo_names(wiring: PodWiring) -> list[str]:
    return [step.name for step in wireplan.node_undo_steps(wiring, EbpfPlan().reach(wiring))]


def loose(wiring: PodWiring) -> bool:
    return EbpfPlan().reach(wiring).loose_rp_filter


def test_the_programs_are_attached_before_the_link_is_up_and_routes_come_after() -> None:
    assert names(POD) == [
        "set loopback up",
        "add clsact",
        "attach egress program",
        "attach ingress program",
        "add address 10.7.0.20/24",
        "add address fd07::20/64",
        "set link up",
        "add route 0.0.0.0/0",
        "add route ::/0",
        "add neighbour 10.7.0.1",
        "add neighbour fd07::1",
    ]


def test_a_macvlan_pod_needs_no_neighbours_and_the_node_nothing() -> None:
    assert not [name for name in names(MACVLAN) if "neighbour" in name]
    assert node_names(MACVLAN) == undo_names(MACVLAN) == []
    assert not loose(replace(MACVLAN, uplink=replace(UPLINK, addresses=())))


def test_what_the_node_does_for_an_ipvlan_pod() -> None:
    assert node_names(POD) == [
        "add node's neighbour 10.7.0.20",
        "add node's neighbour fd07::20",
    ]
    assert not loose(POD)
    elsewhere = replace(POD, uplink=replace(UPLINK, addresses=("192.168.3.4/24",)))
    assert node_names(elsewhere)[2:] == [
        "add node's route 10.7.0.20/32",
        "add node's route fd07::20/128",
    ]
    assert loose(elsewhere)
    assert not loose(replace(elsewhere, addresses=(SIX,)))


def test_a_node_address_without_a_connected_subnet_does_not_reach_the_pod() -> None:
    """Some clouds give the node a /32: it lies in the pod's subnet, yet the node has no route to the pod."""
    slash_32 = replace(POD, uplink=replace(UPLINK, addresses=("10.7.0.1/32",)), addresses=(FOUR,))
    assert EbpfPlan().reach(slash_32).node_routes == (("10.7.0.20/32", ""),)


def test_the_undo_asks_for_routes_that_would_not_be_made_today() -> None:
    """The uplink's addresses may have changed since the pod was wired."""
    assert undo_names(replace(POD, addresses=(FOUR,))) == [
        "delete node's route 10.7.0.20",
        "delete node's neighbour 10.7.0.20",
    ]
    assert undo_names(replace(POD, uplink=Uplink(0, "eth0", "", 0, ()))) == []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, (("0.0.0.0/0", "10.7.0.254"), ("::/0", "fd07::fe"))),
        ({"default_route": False}, ()),
        ({"addresses": (PodAddress("10.7.0.20/24", ""),)}, ()),
        (
            {"routes": (("10.9.9.9/16", "10.7.0.9"), ("10.7.9.0/24", ""))},
            (("10.7.9.0/24", ""), ("10.9.0.0/16", "10.7.0.9"), ("0.0.0.0/0", "10.7.0.254"), ("::/0", "fd07::fe")),
        ),
        ({"routes": (("0.0.0.0/0", "10.7.0.9"),)}, (("0.0.0.0/0", "10.7.0.9"), ("::/0", "fd07::fe"))),
        ({"addresses": (FOUR, PodAddress("10.8.0.20/24", "10.8.0.254"))}, (("0.0.0.0/0", "10.7.0.254"),)),
    ],
)
def test_routes(changes: dict[str, object], wanted: tuple[tuple[str, str], ...]) -> None:
    assert wireplan.routes_of(replace(POD, **changes)) == wanted  # type: ignore[arg-type]


def test_the_mac_of_a_macvlan_pod_is_its_own_for_good() -> None:
    mac = wireplan.mac_of(MACVLAN)
    assert mac == wireplan.mac_of(replace(MACVLAN, addresses=(), ifindex=1))
    others = {wireplan.mac_of(replace(MACVLAN, container_id=f"c{number}")) for number in range(200)}
    others.add(wireplan.mac_of(replace(MACVLAN, ifname="net1")))
    assert len(others) == 201 and mac not in others
    assert all(one[0] & 3 == 2 for one in others), "unicast and locally administered"
    assert wireplan.mac_of(POD) == bytes.fromhex("020000000001")


def test_the_link_to_make() -> None:
    assert wireplan.link_spec(POD).mac == b""
    assert wireplan.link_spec(MACVLAN).mac == wireplan.mac_of(MACVLAN)
    assert wireplan.link_spec(replace(POD, mtu=1500)).mtu == 1500
    with pytest.raises(NetlinkError, match="mtu 1501 is above the 1500"):
        wireplan.link_spec(replace(POD, mtu=1501))


def test_the_pods_map_entry() -> None:
    entry = pod_entry(replace(POD, addresses=(SIX, FOUR)))
    assert (entry.mac, entry.flags, entry.addr4, entry.mask4) == ("02:00:00:00:00:01", 1, "10.7.0.20", "255.255.255.0")
    only_six = pod_entry(replace(MACVLAN, addresses=(SIX,)))
    assert (only_six.flags, only_six.addr4, only_six.mask4) == (0, "0.0.0.0", "0.0.0.0")
