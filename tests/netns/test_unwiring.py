"""`unwire` and `reap`: nothing stays, twice is fine, and so is a netns or an uplink that is gone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from datapath import netlink, rtnl, rtsocket
from datapath.abi import ADDRESS_NODE
from datapath.netlink import NetlinkError, Uplink
from datapath.unwiring import reap, unwire
from datapath.wiring import PodAddress, PodWiring, wire
from tests.netns.node import IFINDEX, Node, fingerprint, inside, ip, pod_wiring

Looks = frozenset[tuple[str, str, int]]


def looks(node: Node, pod: int) -> Looks:
    """Both namespaces, as lines."""
    both = {"node": fingerprint(node.netns), "pod": fingerprint(pod)}
    return frozenset((name, line, count) for name, lines in both.items() for line, count in lines)


@pytest.fixture
def bare(node: Node) -> tuple[int, Looks]:
    """A pod netns with only its loopback up, and how it and the node look before wiring."""
    pod = node.new_pod()
    ip(pod, "ip link set lo up")
    return pod, looks(node, pod)


def test_unwire_frees_the_address_and_keeps_the_link(node: Node, wired_as: PodWiring, bare: tuple[int, Looks]) -> None:
    (pod, _), node_before = bare, fingerprint(node.netns)
    node.maps.put_local("10.7.0.1", 0, ADDRESS_NODE)
    node.run(lambda: wire(wired_as, pod, node.kernel))
    for _ in range(2):
        node.run(lambda: unwire(wired_as, pod, node.kernel))
        assert fingerprint(node.netns) == node_before
        assert inside(pod, lambda: netlink.addresses(IFINDEX)) == frozenset()
        assert inside(pod, lambda: netlink.link(IFINDEX)) is not None
        assert node.maps.pods() == {}
        assert [key.address for key in node.maps.locals()] == ["10.7.0.1"], "the node's own entry stays"


def test_reap_leaves_nothing(node: Node, wired_as: PodWiring, bare: tuple[int, Looks]) -> None:
    pod, before = bare
    node.run(lambda: wire(wired_as, pod, node.kernel))
    assert looks(node, pod) != before
    node.run(lambda: unwire(wired_as, pod, node.kernel))
    for count in (1, 2):
        node.run(lambda: reap(wired_as, pod, node.kernel))
        assert looks(node, pod) == before
        assert node.maps.forgotten == [{"10.7.0.20", "fd07::20"}] * count


def test_the_address_can_be_given_again_before_the_link_is_gone(node: Node, ipvlan: bool) -> None:
    """With real ipvlan this is the proof that the uplink's address table was freed (no EADDRINUSE)."""
    first, second = node.new_pod(), node.new_pod()
    facts = pod_wiring(node, kind="ipvlan", mode="l2")
    node.run(lambda: wire(facts, first, node.kernel))
    node.run(lambda: unwire(facts, first, node.kernel))
    node.run(lambda: wire(replace(facts, ifindex=IFINDEX + 1, container_id="d00d"), second, node.kernel))
    node.run(lambda: reap(facts, first, node.kernel))
    assert set(node.maps.pods()) == {IFINDEX + 1}
    assert "10.7.0.20" in node.run(lambda: netlink.neighbours(node.uplink.ifindex))


def test_another_pods_wiring_is_not_touched(node: Node, wired_as: PodWiring, bare: tuple[int, Looks]) -> None:
    pod, other = bare[0], node.new_pod()
    addresses = (PodAddress("10.7.0.21/24", "10.7.0.254"), PodAddress("fd07::21/64", ""))
    neighbour = replace(wired_as, ifindex=IFINDEX + 1, addresses=addresses, container_id="d00d")
    node.run(lambda: wire(neighbour, other, node.kernel))
    before, maps_before = looks(node, other), (node.maps.pods(), node.maps.locals())
    node.run(lambda: wire(wired_as, pod, node.kernel))
    node.run(lambda: unwire(wired_as, pod, node.kernel))
    node.run(lambda: reap(wired_as, pod, node.kernel))
    assert looks(node, other) == before
    assert (node.maps.pods(), node.maps.locals()) == maps_before


@pytest.mark.parametrize("descriptor", [None, -1, 1 << 20, "pipe"])
def test_without_netns_the_nodes_part_is_removed(
    node: Node, wired_as: PodWiring, bare: tuple[int, Looks], descriptor: int | str | None
) -> None:
    (pod, _), node_before = bare, fingerprint(node.netns)
    read, write = os.pipe()
    given = read if isinstance(descriptor, str) else descriptor
    node.run(lambda: wire(wired_as, pod, node.kernel))
    for _ in range(2):
        node.run(lambda: unwire(wired_as, given, node.kernel))
        node.run(lambda: reap(wired_as, given, node.kernel))
    os.close(read)
    os.close(write)
    assert fingerprint(node.netns) == node_before
    assert (node.maps.pods(), node.maps.locals()) == ({}, {})
    assert node.maps.forgotten


def test_a_netns_that_died_with_its_pod(node: Node, wired_as: PodWiring) -> None:
    before, pod = fingerprint(node.netns), node.new_pod()
    node.run(lambda: wire(wired_as, pod, node.kernel))
    node.pods.remove(pod)
    os.close(pod)
    node.run(lambda: unwire(wired_as, None, node.kernel))
    node.run(lambda: reap(wired_as, None, node.kernel))
    assert fingerprint(node.netns) == before
    assert (node.maps.pods(), node.maps.locals()) == ({}, {})


def test_in_a_netns_where_nothing_of_ours_is(node: Node, wired_as: PodWiring) -> None:
    pod = node.new_pod()
    ip(pod, "ip link add eth0 type veth peer name other", "ip addr add 10.7.0.20/24 dev eth0")
    before = looks(node, pod)
    node.run(lambda: unwire(wired_as, pod, node.kernel))
    node.run(lambda: reap(wired_as, pod, node.kernel))
    assert looks(node, pod) == before, "a foreign eth0 with our address is not ours"


def test_after_the_uplink_is_gone(node: Node, wired_as: PodWiring, bare: tuple[int, Looks]) -> None:
    pod, _ = bare
    node.run(lambda: wire(wired_as, pod, node.kernel))
    ip(node.netns, "ip link del eth1")
    node.run(lambda: unwire(wired_as, pod, node.kernel))
    node.run(lambda: reap(wired_as, pod, node.kernel))
    assert (node.maps.pods(), node.maps.locals()) == ({}, {})


def test_after_a_restart_without_the_uplink(node: Node, wired_as: PodWiring, bare: tuple[int, Looks]) -> None:
    """The agent does not know the number of an uplink that is gone: the entries are found by the slave's."""
    pod, _ = bare
    node.run(lambda: wire(wired_as, pod, node.kernel))
    node.maps.put_local("10.7.0.99", node.uplink.ifindex, 1, IFINDEX + 1)
    ip(node.netns, "ip link del eth1")
    unknown = replace(wired_as, uplink=Uplink(0, "eth1", "", 0, ()))
    node.run(lambda: unwire(unknown, pod, node.kernel))
    node.run(lambda: reap(unknown, pod, node.kernel))
    assert node.maps.pods() == {}
    assert [key.address for key in node.maps.locals()] == ["10.7.0.99"]


def broken_batch(patch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """The n-th batch is not sent; gives how many there were."""
    seen, real = [0], rtsocket.RouteSocket.exchange

    def exchange(self: rtsocket.RouteSocket, messages: Sequence[bytes]) -> list[rtnl.Ack]:
        seen[0] += 1
        if seen[0] == at:
            return [rtnl.Ack(0, errno.EPERM, "injected")]
        return real(self, messages)

    patch.setattr(rtsocket.RouteSocket, "exchange", exchange)
    return lambda: seen[0]


def test_one_part_that_fails_does_not_keep_the_others_from_being_done(
    node: Node, wired_as: PodWiring, bare: tuple[int, Looks]
) -> None:
    """A DEL is repeated until it works: after each failure at a step, a second run ends with nothing left."""
    pod, before = bare
    for at in (1, 2):
        node.run(lambda: wire(wired_as, pod, node.kernel))
        with pytest.MonkeyPatch.context() as patch:
            count = broken_batch(patch, at)
            if wired_as.kind == "macvlan" and at == 2:
                node.run(lambda: unwire(wired_as, pod, node.kernel))
                assert count() == 1
            else:
                with pytest.raises(NetlinkError, match="injected"):
                    node.run(lambda: unwire(wired_as, pod, node.kernel))
            assert (node.maps.pods(), node.maps.locals()) == ({}, {})
        node.run(lambda: unwire(wired_as, pod, node.kernel))
        node.run(lambda: reap(wired_as, pod, node.kernel))
        assert looks(node, pod) == before


def test_reap_forgets_flows_even_if_the_link_cannot_be_deleted(
    node: Node, wired_as: PodWiring, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = node.new_pod()
    node.run(lambda: wire(wired_as, pod, node.kernel))
    broken_batch(monkeypatch, 1)
    with pytest.raises(NetlinkError, match="delete link"):
        node.run(lambda: reap(wired_as, pod, node.kernel))
    assert node.maps.forgotten
