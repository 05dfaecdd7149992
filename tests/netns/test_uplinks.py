"""`prepare_uplink` beside foreign qdiscs and filters, the node's addresses in the map, and links that are no uplink."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from datapath import netlink, rtnl
from datapath.abi import ADDRESS_NODE, ADDRESS_POD
from datapath.entries import LocalEntry, LocalKey
from datapath.netlink import Filter, NetlinkError, UplinkUnusable
from datapath.rtsocket import RouteSocket, Step, run
from datapath.uplinks import HANDLE, PREFERENCE, prepare_uplink, write_node_addresses
from tests.netns.node import Node, fingerprint, ip, load_program, program_id

OURS = Filter(rtnl.CLSACT_EGRESS, PREFERENCE, HANDLE, "bpf", "node_to_pod")


def egress(node: Node) -> Sequence[Filter]:
    return node.run(lambda: netlink.filters(node.uplink.ifindex, rtnl.CLSACT_EGRESS))


def prepare(node: Node, name: str = "eth0") -> netlink.Uplink:
    return node.run(lambda: prepare_uplink(name, node.kernel))


def test_the_uplink_runs_our_program_once_however_often_it_is_prepared(node: Node) -> None:
    for _ in range(3):
        assert prepare(node) == node.uplink
        assert egress(node) == (OURS,)
    assert node.run(lambda: netlink.filters(node.uplink.ifindex, rtnl.CLSACT_INGRESS)) == ()
    assert node.uplink.addresses == ("10.7.0.1/24", "fd07::1/64")


def test_a_newer_program_takes_the_place_of_ours(node: Node) -> None:
    prepare(node)
    node.programs.instead["node_to_pod"] = load_program()
    prepare(node)
    assert egress(node) == (OURS,)
    shown = ip(node.netns, "tc filter show dev eth0 egress").split()
    assert int(shown[shown.index("id") + 1]) == program_id(node.programs.fd("node_to_pod"))


def add_foreign(node: Node, parent: int, preference: int) -> Filter:
    """Attach somebody else's program to eth0, which has a clsact."""
    spec = rtnl.FilterSpec(node.uplink.ifindex, parent, preference, 1, "foreign", node.programs.fd("hold_egress"))

    def add() -> None:
        with RouteSocket() as channel:
            run(channel, [Step("add foreign filter", rtnl.new_bpf_filter(spec))])

    node.run(add)
    return Filter(parent, preference, 1, "bpf", "foreign")


def test_foreign_filters_before_and_after_ours_stay(node: Node) -> None:
    ip(node.netns, "tc qdisc add dev eth0 clsact")
    first, last = (add_foreign(node, rtnl.CLSACT_EGRESS, preference) for preference in (1, 900))
    other = add_foreign(node, rtnl.CLSACT_INGRESS, PREFERENCE)
    prepare(node)
    prepare(node)
    assert egress(node) == (first, OURS, last)
    assert node.run(lambda: netlink.filters(node.uplink.ifindex, rtnl.CLSACT_INGRESS)) == (other,)


def test_a_foreign_filter_in_our_place_is_not_replaced(node: Node) -> None:
    ip(node.netns, "tc qdisc add dev eth0 clsact")
    foreign = add_foreign(node, rtnl.CLSACT_EGRESS, PREFERENCE)
    with pytest.raises(NetlinkError, match="foreign egress filter"):
        prepare(node)
    assert egress(node) == (foreign,)


def test_the_older_ingress_qdisc_has_no_egress(node: Node) -> None:
    ip(node.netns, "tc qdisc add dev eth0 ingress")
    before = fingerprint(node.netns)
    with pytest.raises(UplinkUnusable, match="replace it by clsact"):
        prepare(node)
    assert fingerprint(node.netns) == before


def test_the_nodes_addresses_of_all_links_are_known_and_old_ones_forgotten(node: Node) -> None:
    ip(node.netns, "ip addr add 192.168.0.14/24 dev eth1", "ip addr add 169.254.9.9/16 dev eth1 scope link")
    ip(node.netns, "ip link add kube-ipvs0 type veth peer name x", "ip addr add 10.96.0.1/32 dev kube-ipvs0")
    pod = LocalKey("10.7.0.20", node.uplink.ifindex)
    node.maps.put_local(pod.address, pod.uplink_ifindex, ADDRESS_POD, 7)
    node.maps.put_local("10.7.0.99", 0, ADDRESS_NODE)
    prepare(node)
    entry = LocalEntry(ADDRESS_NODE, 0)
    wanted = {LocalKey(address, 0): entry for address in ("10.7.0.1", "fd07::1", "192.168.0.14")}
    assert node.maps.locals() == wanted | {pod: LocalEntry(ADDRESS_POD, 7)}
    ip(node.netns, "ip addr del 192.168.0.14/24 dev eth1")
    assert node.run(lambda: write_node_addresses(node.kernel)) == ("10.7.0.1", "fd07::1")
    assert LocalKey("192.168.0.14", 0) not in node.maps.locals()


@pytest.mark.parametrize(
    ("commands", "name", "text"),
    [
        ((), "eth7", 'this node has no link "eth7": correct "master"'),
        (("ip link set eth0 down",), "eth0", "eth0 is down: set it up"),
        ((), "lo", "loopback"),
        (
            ("ip link add br0 type bridge", "ip link set eth0 master br0"),
            "eth0",
            'eth0 is a port of the bridge "br0" and cannot carry slaves: name the bridge itself',
        ),
    ],
)
def test_a_link_that_cannot_be_an_uplink(node: Node, commands: tuple[str, ...], name: str, text: str) -> None:
    ip(node.netns, "true", *commands)
    before = fingerprint(node.netns)
    with pytest.raises(UplinkUnusable, match=text):
        prepare(node, name)
    assert fingerprint(node.netns) == before
    assert node.maps.locals() == {}


def test_slaves_of_a_netns_are_listed(node: Node) -> None:
    ip(node.netns, "ip link add mv0 link eth0 type macvlan mode bridge")
    (found,) = node.run(netlink.slaves)
    assert (found.name, found.kind, found.mode, found.uplink_ifindex) == (
        "mv0",
        "macvlan",
        "bridge",
        node.uplink.ifindex,
    )
