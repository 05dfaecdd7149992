"""CNI CHECK: each deviation is found and named, alone; foreign additions are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from datapath.abi import ADDRESS_POD
from datapath.wirecheck import check
from datapath.wiring import PodWiring, wire
from tests.netns.node import IFINDEX, Node, ip, pod_wiring


def deviation(node: Node, facts: PodWiring, damage: Callable[[int], object]) -> list[str]:
    """What CHECK says of a wired pod after `damage` (given the pod's netns)."""
    pod = node.new_pod()
    node.run(lambda: wire(facts, pod, node.kernel))
    damage(pod)
    return node.run(lambda: check(facts, pod, node.kernel))


IN_THE_POD = {
    "ip addr del 10.7.0.20/24 dev eth0": ["no address 10.7.0.20/24", "no route"],
    "ip addr del fd07::20/64 dev eth0": ["no address fd07::20/64"],
    "ip addr change 10.7.0.20/25 dev eth0": [],
    "ip route del default": ["no route 0.0.0.0/0 via 10.7.0.254"],
    "ip route del 10.99.0.0/16": ["no route 10.99.0.0/16 via 10.7.0.253"],
    "ip route del 10.98.0.0/16": ["no route 10.98.0.0/16"],
    "ip -6 route del default": ["no route ::/0 via fd07::fe"],
    "ip link set eth0 mtu 1400": ["mtu is 1400, not 1500"],
    "tc qdisc del dev eth0 clsact": ["not run the program hold_egress", "not run the program hold_ingress"],
    "tc filter del dev eth0 egress": ["not run the program hold_egress"],
    "tc filter del dev eth0 ingress": ["not run the program hold_ingress"],
    "ip link del eth0": [f"no link numbered {IFINDEX}"],
    "ip route add 10.97.0.0/16 via 10.7.0.251": [],
    "ip addr add 10.7.0.99/24 dev eth0": [],
    "ip link add other type veth peer name another": [],
}


@pytest.mark.parametrize("command", IN_THE_POD)
def test_a_deviation_in_the_pod(node: Node, command: str) -> None:
    facts = pod_wiring(node, routes=(("10.99.0.0/16", "10.7.0.253"), ("10.98.0.0/16", "")))
    found = deviation(node, facts, lambda pod: ip(pod, command))
    wanted = IN_THE_POD[command]
    assert bool(found) == bool(wanted), found
    for text in wanted:
        assert any(text in line for line in found), found


@pytest.mark.parametrize(
    ("commands", "text"),
    [
        (("ip link set eth0 down", "ip link set eth0 name eth9", "ip link set eth9 up"), "name is 'eth9', not 'eth0'"),
        (("ip link set eth0 down",), "up is False, not True"),
        (("ip link set eth0 address 02:00:00:00:00:77",), "mac is '02:00:00:00:00:77'"),
        (("ip link set eth0 type macvlan mode private",), "mode is 'private', not 'bridge'"),
    ],
)
def test_a_link_that_was_changed(node: Node, commands: tuple[str, ...], text: str) -> None:
    found = deviation(node, pod_wiring(node), lambda pod: ip(pod, *commands))
    assert any(text in line for line in found), found


def test_a_link_of_another_kind(node: Node) -> None:
    facts = pod_wiring(node)
    change = ("ip link del eth0", f"ip link add eth0 index {IFINDEX} type veth peer name other")
    found = deviation(node, facts, lambda pod: ip(pod, *change))
    assert any("kind is 'veth', not 'macvlan'" in line for line in found), found


@pytest.mark.usefixtures("ipvlan")
@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("ip neigh del 10.7.0.20 dev eth1", "the node's permanent neighbour 10.7.0.20 on eth1 is None"),
        ("ip neigh del fd07::20 dev eth1", "the node's permanent neighbour fd07::20 on eth1 is None"),
        ("ip neigh replace 10.7.0.20 lladdr 02:00:00:00:00:77 dev eth1", "10.7.0.20 on eth1 is 02:00:00:00:00:77"),
        ("ip route del 10.7.0.20/32 dev eth1", "the node has no route to 10.7.0.20/32 by eth1"),
        ("ip -6 route del fd07::20/128 dev eth1", "the node has no route to fd07::20/128 by eth1"),
    ],
)
def test_a_deviation_on_the_node(node: Node, command: str, text: str) -> None:
    facts = pod_wiring(node, kind="ipvlan", mode="l2", uplink=node.uplink_without_address)
    found = [line for line in deviation(node, facts, lambda _pod: ip(node.netns, command)) if "link eth0" not in line]
    assert len(found) == 1 and text in found[0], found


@pytest.mark.usefixtures("ipvlan")
def test_a_neighbour_missing_in_the_pod(node: Node) -> None:
    facts = pod_wiring(node, kind="ipvlan", mode="l2")
    found = deviation(node, facts, lambda pod: ip(pod, "ip neigh del 10.7.0.1 dev eth0"))
    assert any("the pod's permanent neighbour 10.7.0.1 is None" in line for line in found), found


def test_map_entries(node: Node) -> None:
    facts, pod = pod_wiring(node), node.new_pod()
    node.run(lambda: wire(facts, pod, node.kernel))

    def found() -> list[str]:
        return node.run(lambda: check(facts, pod, node.kernel))

    good = node.maps.pods()[IFINDEX]
    assert found() == []
    node.maps.put_pod(IFINDEX, replace(good, flags=0x2))
    assert found() == [], "flags that the programs set are theirs"
    for changes in ({"flags": 1}, {"mac": "02:00:00:00:00:77"}, {"addr4": "10.7.0.21"}, {"uplink_ifindex": 99}):
        node.maps.put_pod(IFINDEX, replace(good, **changes))
        assert len(found()) == 1 and "map pods has PodEntry" in found()[0]
    node.maps.delete_pod(IFINDEX)
    assert found() == [f"map pods has no entry for ifindex {IFINDEX}"]
    node.maps.put_pod(IFINDEX, good)
    node.maps.delete_local("fd07::20", node.uplink.ifindex)
    assert found() == [f"map addresses does not lead fd07::20 to ifindex {IFINDEX}"]
    node.maps.put_local("fd07::20", node.uplink.ifindex, ADDRESS_POD, IFINDEX + 1)
    assert found() == [f"map addresses does not lead fd07::20 to ifindex {IFINDEX}"]


def test_a_netns_that_is_gone_is_a_deviation(node: Node) -> None:
    facts, pod = pod_wiring(node), node.new_pod()
    node.run(lambda: wire(facts, pod, node.kernel))
    (found,) = node.run(lambda: check(facts, -1, node.kernel))
    assert found.startswith("enter netns")
