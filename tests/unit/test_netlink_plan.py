"""The netlink plan, row by row: what node and pod need to find each other without programs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from datapath import wireplan
from datapath.netlink import Uplink
from datapath.plans import NODE_SLAVE_IFINDEX, NetlinkPlan
from datapath.wireplan import PodAddress, PodWiring, Reach

MAC = "02:00:00:00:00:01"
UPLINK = Uplink(3, "eth0", MAC, 1500, ("10.7.0.1/24", "fd07::1/64"))
FOUR, SIX = PodAddress("10.7.0.20/24", "10.7.0.254"), PodAddress("fd07::20/64", "fd07::fe")
PLAN = NetlinkPlan(("10.96.0.0/12", "fd00:96::/108"))
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
    node_addresses=("10.7.0.1", "192.168.3.4", "fd07::1"),
    container_id="c0ffee",
)
MACVLAN = replace(POD, kind="macvlan", mode="bridge")
ONLY_FOUR = replace(POD, addresses=(FOUR,))
ELSEWHERE = replace(ONLY_FOUR, uplink=replace(UPLINK, addresses=("192.168.3.4/24",)))
NO_ADDRESS = replace(ONLY_FOUR, uplink=replace(UPLINK, addresses=()))


def reach(wiring: PodWiring, plan: NetlinkPlan = PLAN) -> Reach:
    return plan.reach(wiring)


def test_a_pod_has_no_programs_and_its_way_to_node_and_services() -> None:
    assert [step.name for step in wireplan.pod_steps(POD, reach(POD), None)] == [
        "set loopback up",
        "add address 10.7.0.20/24",
        "add address fd07::20/64",
        "set link up",
        "add route 10.7.0.1/32",
        "add route 192.168.3.4/32",
        "add route fd07::1/128",
        "add route 10.96.0.0/12",
        "add route fd00:96::/108",
        "add route 0.0.0.0/0",
        "add route ::/0",
        "add neighbour 10.7.0.1",
        "add neighbour 192.168.3.4",
        "add neighbour fd07::1",
    ]


def test_the_node_sends_by_its_own_slave_and_forgets_by_it() -> None:
    assert [step.name for step in wireplan.node_steps(POD, reach(POD))] == [
        "add node's neighbour 10.7.0.20",
        "add node's neighbour fd07::20",
        "add node's route 10.7.0.20/32",
        "add node's route fd07::20/128",
    ]
    assert [step.name for step in wireplan.node_undo_steps(POD, reach(POD))] == [
        "delete node's route 10.7.0.20",
        "delete node's neighbour 10.7.0.20",
        "delete node's route fd07::20",
        "delete node's neighbour fd07::20",
    ]
    gone = replace(POD, uplink=Uplink(0, "eth0", "00:00:00:00:00:00", 0, ()))
    assert wireplan.node_undo_steps(gone, reach(gone)) == []
    assert PLAN.idle_slaves(gone.uplink) == ()
    assert PLAN.idle_slaves(UPLINK) == (reach(POD).node_ifindex,)


@pytest.mark.parametrize("wiring", [POD, MACVLAN])
def test_what_is_known_of_a_leftover_gives_the_same_side_of_the_node(wiring: PodWiring) -> None:
    """A DEL and a restart know neither mode nor MTU nor the node's addresses at the time of the ADD."""
    leftover = replace(wiring, mode="", mtu=0, node_addresses=(), routes=(), default_route=False)
    now, then = reach(leftover), reach(wiring)
    assert (now.node_slave, now.node_routes, now.node_neighbours) == (
        then.node_slave,
        then.node_routes,
        then.node_neighbours,
    )


@pytest.mark.parametrize(
    ("wiring", "slave_mac", "node_mac", "loose"),
    [
        (POD, False, bytes.fromhex("020000000001"), True),
        (replace(POD, addresses=(SIX,)), False, bytes.fromhex("020000000001"), False),
        (MACVLAN, True, None, False),
    ],
)
def test_ipvlan_shares_the_uplinks_mac_and_macvlan_has_one_more(
    wiring: PodWiring, slave_mac: bool, node_mac: bytes | None, loose: bool
) -> None:
    found = reach(wiring)
    slave = found.node_slave
    assert slave is not None
    assert (slave.kind, slave.name, slave.ifindex, slave.uplink_ifindex, slave.mtu) == (
        wiring.kind,
        "dl-3",
        NODE_SLAVE_IFINDEX + 3,
        3,
        0,
    )
    assert (found.node_ifindex, found.node_link) == (slave.ifindex, "dl-3")
    assert bool(slave.mac) is slave_mac
    assert found.node_mac == (node_mac or slave.mac)
    assert slave.mac != wireplan.mac_of(wiring)
    assert found.loose_rp_filter is loose


@pytest.mark.parametrize(
    ("wiring", "wanted"),
    [
        (POD, (("10.7.0.20/32", "10.7.0.1"), ("fd07::20/128", "fd07::1"))),
        (ELSEWHERE, (("10.7.0.20/32", "192.168.3.4"),)),
        (NO_ADDRESS, (("10.7.0.20/32", ""),)),
        (
            replace(ONLY_FOUR, uplink=replace(UPLINK, addresses=("10.9.0.1/24", "10.7.0.1/24"))),
            (("10.7.0.20/32", "10.7.0.1"),),
        ),
    ],
)
def test_the_node_speaks_to_a_pod_from_its_address_beside_it(
    wiring: PodWiring, wanted: tuple[tuple[str, str], ...]
) -> None:
    assert reach(wiring).node_routes == wanted


@pytest.mark.parametrize(
    ("wiring", "plan", "services"),
    [
        (POD, PLAN, {"10.96.0.0/12": "10.7.0.1", "fd00:96::/108": "fd07::1"}),
        (ONLY_FOUR, PLAN, {"10.96.0.0/12": "10.7.0.1"}),
        (ELSEWHERE, PLAN, {"10.96.0.0/12": "192.168.3.4"}),
        (NO_ADDRESS, PLAN, {"10.96.0.0/12": "10.7.0.1"}),
        (
            replace(POD, node_addresses=("10.7.0.1",), uplink=replace(UPLINK, addresses=())),
            PLAN,
            {"10.96.0.0/12": "10.7.0.1"},
        ),
        (POD, NetlinkPlan(()), {}),
        (POD, NetlinkPlan(("10.96.0.9/12",)), {"10.96.0.0/12": "10.7.0.1"}),
    ],
)
def test_services_are_reached_by_an_address_of_the_node(
    wiring: PodWiring, plan: NetlinkPlan, services: dict[str, str]
) -> None:
    found = {destination: gateway for destination, gateway in reach(wiring, plan).pod_routes if gateway}
    assert found == services


def test_only_node_addresses_of_the_pods_families_are_told() -> None:
    assert reach(ONLY_FOUR).pod_neighbours == ("10.7.0.1", "192.168.3.4")
    assert reach(replace(POD, addresses=(SIX,))).pod_neighbours == ("fd07::1",)


def test_a_route_that_the_pod_was_given_goes_before_the_plans() -> None:
    given = replace(ONLY_FOUR, routes=(("10.96.0.0/12", "10.7.0.9"), ("192.168.3.4/32", "10.7.0.9")))
    assert dict(wireplan.all_routes(given, reach(given))) == {
        "10.7.0.1/32": "",
        "10.96.0.0/12": "10.7.0.9",
        "192.168.3.4/32": "10.7.0.9",
        "0.0.0.0/0": "10.7.0.254",
    }
