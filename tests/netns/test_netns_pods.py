"""Which netns is a pod's: written with the pod's first slave, gone with it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import replace

import pytest

from datapath import netns, rtsocket
from datapath.unwiring import unwire
from datapath.wiring import PodAddress, PodWiring, wire
from tests.netns.node import IFINDEX, Node, inside, pod_wiring


def known(node: Node) -> dict[int, int]:
    """The map: slaves by cookie."""
    return {cookie.number: slave.number for cookie, slave in node.maps.netns_pods.items()}


def cookie_of(pod: int) -> int:
    """The cookie of a pod's netns, from outside of it."""
    number = inside(pod, netns.cookie)
    assert number is not None
    return number


@pytest.fixture(autouse=True)
def nothing_left(node: Node) -> Iterator[None]:
    """No entries before and after."""
    assert known(node) == {}
    yield
    for ifindex in (IFINDEX, IFINDEX + 1):
        node.maps.forget_netns(ifindex)


def second(node: Node) -> PodWiring:
    """Another slave of the same pod."""
    other = PodAddress("10.7.0.30/24", "10.7.0.254")
    return replace(pod_wiring(node), ifindex=IFINDEX + 1, ifname="net1", addresses=(other,), default_route=False)


def test_the_first_slave_speaks_for_the_netns(node: Node) -> None:
    """The second one comes and goes without a trace."""
    pod, first, other = node.new_pod(), pod_wiring(node), second(node)
    node.run(lambda: wire(first, pod, node.kernel))
    node.run(lambda: wire(other, pod, node.kernel))
    assert known(node) == {cookie_of(pod): IFINDEX}
    node.run(lambda: unwire(other, pod, node.kernel))
    assert known(node) == {cookie_of(pod): IFINDEX}
    node.run(lambda: unwire(first, pod, node.kernel))
    assert known(node) == {}


def test_unwiring_needs_no_netns(node: Node) -> None:
    pod, facts = node.new_pod(), pod_wiring(node)
    node.run(lambda: wire(facts, pod, node.kernel))
    node.run(lambda: unwire(facts, None, node.kernel))
    assert known(node) == {}


def test_a_failed_wiring_leaves_none(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[int, int]] = []

    pod = node.new_pod()
    real = rtsocket.RouteSocket.exchange
    calls: list[int] = []
    with monkeypatch.context() as patch:

        def exchange(self: rtsocket.RouteSocket, messages: list[bytes]) -> object:
            calls.append(len(messages))
            if len(calls) == 2:  # the pod's own batch: the map entries are written by now
                seen.append(known(node))
                raise OSError(errno.ENOMEM, "injected")
            return real(self, messages)

        patch.setattr(rtsocket.RouteSocket, "exchange", exchange)
        with pytest.raises(OSError, match="injected"):
            node.run(lambda: wire(pod_wiring(node), pod, node.kernel))
    assert seen == [{cookie_of(pod): IFINDEX}]
    assert known(node) == {}
