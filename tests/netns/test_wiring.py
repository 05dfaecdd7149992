"""`wire` on real links: what it makes, and its named errors. What it leaves after failures: test_wiring_undo.py.

Where the running kernel has no ipvlan, the `ipvlan` fixture carries the same plans out on macvlan links. For real ones:
`python -m tests.testbed.vm -- .venv/bin/python -m pytest tests/netns/test_wiring.py` (so, too, its neighbours here).
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from datapath import netlink, rtnl, rtsocket
from datapath.abi import ADDRESS_POD, POD_OWN_MAC
from datapath.entries import LocalEntry, LocalKey, PodEntry
from datapath.netlink import AddressInUse, LinkExists, NetlinkError, NetnsGone, UplinkUnusable
from datapath.wirecheck import check
from datapath.wiring import PodAddress, PodWiring, wire
from tests.netns.node import FOUR, IFINDEX, SIX, Node, fingerprint, inside, ip, pod_wiring, program_id


def test_a_macvlan_pod_gets_all_that_was_asked_for(node: Node) -> None:
    pod, facts = node.new_pod(), pod_wiring(node, mtu=1400, routes=(("10.99.0.0/16", "10.7.0.253"),))
    done = node.run(lambda: wire(facts, pod, node.kernel))
    link = inside(pod, lambda: netlink.link(IFINDEX))
    assert link == netlink.Link(IFINDEX, "eth0", "macvlan", "bridge", done.mac, 1400, True, node.uplink.ifindex)
    assert done.mtu == 1400 and done.mac != node.uplink.mac
    assert inside(pod, lambda: netlink.addresses(IFINDEX)) == {"10.7.0.20/24", "fd07::20/64"}
    routes = inside(pod, lambda: netlink.routes(IFINDEX))
    assert {("0.0.0.0/0", "10.7.0.254"), ("::/0", "fd07::fe"), ("10.99.0.0/16", "10.7.0.253")} <= routes
    for parent, name in ((rtnl.CLSACT_EGRESS, "hold_egress"), (rtnl.CLSACT_INGRESS, "hold_ingress")):
        (found,) = inside(pod, lambda parent=parent: netlink.filters(IFINDEX, parent))  # type: ignore[misc]
        assert found.name == name
        side = name.removeprefix("hold_")
        shown = ip(pod, f"tc filter show dev eth0 {side}").split()
        assert "direct-action" in shown
        assert int(shown[shown.index("id") + 1]) == program_id(node.programs.fd(name))
    assert "UP" in ip(pod, "ip -o link show lo")
    assert node.maps.pods() == {
        IFINDEX: PodEntry(
            mac=done.mac,
            flags=0,
            addr4="10.7.0.20",
            mask4="255.255.255.0",
            uplink_ifindex=node.uplink.ifindex,
            addr6="fd07::20",
            mask6="ffff:ffff:ffff:ffff::",
            gateway4="10.7.0.254",
            gateway6="fd07::fe",
        ),
    }
    assert node.maps.locals() == {
        LocalKey("10.7.0.20", node.uplink.ifindex): LocalEntry(ADDRESS_POD, IFINDEX),
        LocalKey("fd07::20", node.uplink.ifindex): LocalEntry(ADDRESS_POD, IFINDEX),
    }
    assert node.run(lambda: check(facts, pod, node.kernel)) == []


def test_an_ipv6_address_can_be_used_at_once(node: Node) -> None:
    pod, facts = node.new_pod(), pod_wiring(node)
    node.run(lambda: wire(facts, pod, node.kernel))

    def bind() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
            udp.bind(("fd07::20", 4000))  # EADDRNOTAVAIL while duplicate detection still runs

    inside(pod, bind)
    assert "nodad" in ip(pod, "ip -6 -o addr show dev eth0 scope global")


def test_a_pod_reaches_its_gateway_on_the_wire(node: Node) -> None:
    pod, router = node.new_pod(), node.new_pod()
    ip(node.netns, f"ip link set eth0-wire netns /proc/{os.getpid()}/fd/{router}")
    ip(router, "ip link set eth0-wire up", "ip addr add 10.7.0.254/24 dev eth0-wire")
    node.run(lambda: wire(pod_wiring(node, addresses=(FOUR,)), pod, node.kernel))
    assert "1 received" in ip(pod, "ping -c 1 -W 2 10.7.0.254")


@pytest.mark.usefixtures("ipvlan")
def test_ipvlan_steps_on_the_node_and_in_the_pod(node: Node) -> None:
    pod, facts = node.new_pod(), pod_wiring(node, kind="ipvlan", mode="l2")
    done = node.run(lambda: wire(facts, pod, node.kernel))
    mac = node.uplink.mac
    assert done.mac == mac
    assert node.run(lambda: netlink.neighbours(node.uplink.ifindex)) == {"10.7.0.20": mac, "fd07::20": mac}
    assert inside(pod, lambda: netlink.neighbours(IFINDEX)) == {"10.7.0.1": mac, "fd07::1": mac}
    # The node has addresses in the pod's subnets on eth0: no route for the pod alone.
    assert not [route for route in node.run(lambda: netlink.routes(node.uplink.ifindex)) if "20/" in route[0]]
    assert node.maps.pods()[IFINDEX].flags == POD_OWN_MAC


@pytest.mark.usefixtures("ipvlan")
def test_an_uplink_without_address_gets_host_routes(node: Node) -> None:
    facts = pod_wiring(node, kind="ipvlan", mode="l2", uplink=node.uplink_without_address)
    pod = node.new_pod()
    node.run(lambda: wire(facts, pod, node.kernel))
    routes = node.run(lambda: netlink.routes(node.uplink_without_address.ifindex))
    assert {("10.7.0.20/32", ""), ("fd07::20/128", "")} <= routes


@pytest.mark.usefixtures("ipvlan")
@pytest.mark.parametrize(("everywhere", "own", "after"), [(0, 0, 0), (0, 1, 2), (1, 0, 2), (2, 1, 1), (1, 2, 2)])
def test_rp_filter_is_loosened_only_where_it_is_strict(node: Node, everywhere: int, own: int, after: int) -> None:
    folder = "net.ipv4.conf"
    ip(node.netns, f"sysctl -qw {folder}.all.rp_filter={everywhere} {folder}.eth0.rp_filter={own}")
    ip(node.netns, f"sysctl -qw {folder}.eth1.rp_filter={own}")
    facts = pod_wiring(node, kind="ipvlan", mode="l2", addresses=(FOUR,))
    node.run(lambda: wire(replace(facts, uplink=node.uplink_without_address), node.new_pod(), node.kernel))
    assert ip(node.netns, f"sysctl -n {folder}.eth1.rp_filter").strip() == str(after)
    node.run(lambda: wire(replace(facts, ifindex=IFINDEX + 1), node.new_pod(), node.kernel))
    assert ip(node.netns, f"sysctl -n {folder}.eth0.rp_filter").strip() == str(own), "eth0 has an address: untouched"


def test_a_gateway_outside_the_subnet_is_used_onlink(node: Node) -> None:
    pod = node.new_pod()
    addresses = (PodAddress("10.7.0.20/32", "10.7.9.254"), PodAddress("fd07::20/128", "fe80::1"))
    facts = pod_wiring(node, addresses=addresses)
    node.run(lambda: wire(facts, pod, node.kernel))
    routes = inside(pod, lambda: netlink.routes(IFINDEX))
    assert {("0.0.0.0/0", "10.7.9.254"), ("::/0", "fe80::1")} <= routes
    assert node.run(lambda: check(facts, pod, node.kernel)) == []


def test_without_default_route_there_is_none(node: Node) -> None:
    pod = node.new_pod()
    node.run(lambda: wire(pod_wiring(node, default_route=False), pod, node.kernel))
    assert not [route for route in inside(pod, lambda: netlink.routes(IFINDEX)) if route[0].endswith("/0")]


def test_a_second_interface_of_one_pod(node: Node) -> None:
    pod = node.new_pod()
    node.run(lambda: wire(pod_wiring(node), pod, node.kernel))
    other = (PodAddress("10.8.0.20/24", "10.8.0.254"),)
    facts = pod_wiring(node, ifname="net1", ifindex=IFINDEX + 1, addresses=other, default_route=False)
    node.run(lambda: wire(facts, pod, node.kernel))
    assert node.run(lambda: check(facts, pod, node.kernel)) == []
    assert node.run(lambda: check(pod_wiring(node), pod, node.kernel)) == []


def test_ipv6_is_switched_on_for_the_slave_where_the_pod_has_it_off(node: Node) -> None:
    pod = node.new_pod()
    ip(pod, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    node.run(lambda: wire(pod_wiring(node, addresses=(FOUR,)), pod, node.kernel))
    assert ip(pod, "sysctl -n net.ipv6.conf.eth0.disable_ipv6").strip() == "1", "nobody asked for IPv6"
    pod = node.new_pod()
    ip(pod, "sysctl -qw net.ipv6.conf.default.disable_ipv6=1")
    node.run(lambda: wire(pod_wiring(node, ifindex=IFINDEX + 1, container_id="d00d"), pod, node.kernel))
    assert "fd07::20" in ip(pod, "ip -6 -o addr show dev eth0")


def test_many_at_once(node: Node) -> None:
    pods = [node.new_pod() for _ in range(16)]
    problems: list[object] = []

    def one(number: int) -> None:
        addresses = (PodAddress(f"10.7.0.{100 + number}/24", "10.7.0.254"),)
        facts = pod_wiring(node, ifindex=IFINDEX + number, addresses=addresses, container_id=f"c{number}")
        try:
            node.run(lambda: wire(facts, pods[number], node.kernel))
            problems.extend(node.run(lambda: check(facts, pods[number], node.kernel)))
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            problems.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(pods))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert len(node.maps.pods()) == len(pods)


# --- named errors ---------------------------------------------------------------------------------------------------


def refused(node: Node, facts: PodWiring, pod: int, error: type[Exception], match: str) -> None:
    """Assert that wiring fails so, and that neither netns nor a map shows it was tried."""
    before = (fingerprint(node.netns), fingerprint(pod), node.maps.pods(), node.maps.locals())
    with pytest.raises(error, match=match):
        node.run(lambda: wire(facts, pod, node.kernel))
    assert (fingerprint(node.netns), fingerprint(pod), node.maps.pods(), node.maps.locals()) == before


def test_a_foreign_link_of_that_name_stays_untouched(node: Node) -> None:
    pod = node.new_pod()
    ip(pod, "ip link add eth0 type veth peer name other", "ip addr add 10.1.1.1/24 dev eth0", "ip link set eth0 up")
    refused(node, pod_wiring(node), pod, LinkExists, "already has a link eth0")


def test_a_foreign_link_of_that_number_stays_untouched(node: Node) -> None:
    pod = node.new_pod()
    ip(pod, f"ip link add other index {IFINDEX} type veth peer name third")
    refused(node, pod_wiring(node), pod, LinkExists, f"numbered {IFINDEX}")


def test_the_nodes_own_eth0_is_no_obstacle(node: Node) -> None:
    """The node has an eth0, and so does the pod afterwards (see rtnl.new_link)."""
    pod = node.new_pod()
    node.run(lambda: wire(pod_wiring(node, ifname="eth0"), pod, node.kernel))
    assert inside(pod, lambda: netlink.link(IFINDEX)) is not None


@pytest.mark.parametrize("case", ["closed", "none", "no netns"])
def test_a_netns_that_is_gone(node: Node, case: str) -> None:
    read, write = os.pipe()
    descriptor = {"closed": 1 << 20, "none": -1, "no netns": read}[case]
    before = fingerprint(node.netns)
    with pytest.raises(NetnsGone):
        node.run(lambda: wire(pod_wiring(node), descriptor, node.kernel))
    os.close(read)
    os.close(write)
    assert (fingerprint(node.netns), node.maps.pods(), node.maps.locals()) == (before, {}, {})


def test_the_main_thread_never_leaves_the_node(node: Node) -> None:
    with pytest.raises(RuntimeError, match="main thread"):
        wire(pod_wiring(node), node.new_pod(), node.kernel)


def test_an_mtu_above_the_uplinks(node: Node) -> None:
    refused(
        node, pod_wiring(node, mtu=1501), node.new_pod(), NetlinkError, "mtu 1501 is above the 1500 of the uplink eth0"
    )


def test_an_uplink_that_is_a_bridge_port(node: Node) -> None:
    ip(node.netns, "ip link add br0 type bridge", "ip link set eth0 master br0")
    refused(node, pod_wiring(node), node.new_pod(), UplinkUnusable, "ipvlan cannot share an uplink")


def test_an_uplink_that_is_gone(node: Node, wired_as: PodWiring) -> None:
    ip(node.netns, "ip link del eth1")
    refused(node, wired_as, node.new_pod(), UplinkUnusable, "the uplink .* is gone")


def test_an_address_that_another_slave_holds(node: Node, monkeypatch: pytest.MonkeyPatch, ipvlan: bool) -> None:
    first, second = node.new_pod(), node.new_pod()
    facts = pod_wiring(node, kind="ipvlan", mode="l2", addresses=(SIX,))
    node.run(lambda: wire(facts, first, node.kernel))
    if not ipvlan:  # the kernel's answer, put in at the message that adds the address
        real = rtsocket.RouteSocket.exchange

        def exchange(self: rtsocket.RouteSocket, messages: Sequence[bytes]) -> list[rtnl.Ack]:
            places = [at for at, message in enumerate(messages) if message[4] == rtnl.RTM_NEWADDR]
            return real(self, messages) + [rtnl.Ack(at, errno.EADDRINUSE, "") for at in places]

        monkeypatch.setattr(rtsocket.RouteSocket, "exchange", exchange)
    other = replace(facts, ifindex=IFINDEX + 1, container_id="d00d")
    with pytest.raises(AddressInUse, match="add address fd07::20/64"):
        node.run(lambda: wire(other, second, node.kernel))
    assert inside(second, lambda: netlink.link(IFINDEX + 1)) is None
    assert IFINDEX + 1 not in node.maps.pods()
