"""The netlink datapath on real links: what a pod and its node have, that they reach each other, and what stays.

With macvlan, which every kernel has; where the running one has ipvlan, with ipvlan as well. The traffic that needs two
nodes is in tests/vm/test_fallback.py.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from datapath import netlink, node_side
from datapath.absent import NoMaps, NoPrograms
from datapath.kernel import Datapath
from datapath.netlink import NetlinkError
from datapath.plans import NODE_SLAVE_IFINDEX, NetlinkPlan
from datapath.rtsocket import RouteSocket
from datapath.unwiring import reap, unwire
from datapath.wirecheck import check
from datapath.wiring import PodAddress, PodWiring, wire
from tests.netns.node import IFINDEX, Node, fingerprint, inside, ip, pod_wiring
from tests.netns.test_wiring_undo import Breaker, lose_answer, never_send, refuse_message

SERVICES = ("10.96.0.0/12", "fd00:96::/108")


@pytest.fixture(params=["macvlan", "ipvlan"])
def facts(request: pytest.FixtureRequest, node: Node, real_ipvlan: bool) -> PodWiring:
    """A dual-stack pod on eth0."""
    if request.param == "ipvlan" and not real_ipvlan:
        pytest.skip("this kernel has no ipvlan; tests/vm/test_fallback.py has")
    mode = {"macvlan": "bridge", "ipvlan": "l2"}[request.param]
    return pod_wiring(node, kind=request.param, mode=mode, node_addresses=("10.7.0.1", "fd07::1"))


@pytest.fixture
def kernel(node: Node) -> Iterator[Datapath]:
    """A datapath without programs and maps."""
    made = Datapath(node.kernel.bpf_root, NoPrograms(), NoMaps(), NetlinkPlan(SERVICES))
    yield made
    made.close()


def slave_name(facts: PodWiring) -> str:
    return f"dl-{facts.uplink.ifindex}"


def second(facts: PodWiring) -> PodWiring:
    """Its sibling."""
    addresses = (PodAddress("10.7.0.21/24", "10.7.0.254"), PodAddress("fd07::21/64", "fd07::fe"))
    return replace(facts, ifindex=IFINDEX + 1, addresses=addresses, container_id="d00d")


def wired(node: Node, kernel: Datapath, facts: PodWiring) -> int:
    pod = node.new_pod()
    node.run(lambda: wire(facts, pod, kernel))
    return pod


def ping(netns: int, address: str) -> None:
    assert "1 received" in ip(netns, f"ping -c 1 -W 2 {address}")


def test_what_pod_and_node_have(node: Node, kernel: Datapath, facts: PodWiring) -> None:
    pod = wired(node, kernel, facts)
    number = NODE_SLAVE_IFINDEX + facts.uplink.ifindex
    slave = node.run(lambda: netlink.link(number))
    assert slave is not None
    assert (slave.name, slave.kind, slave.up) == (slave_name(facts), facts.kind, True)
    assert "NOARP" in ip(node.netns, f"ip link show {slave.name}")
    assert "inet" not in ip(node.netns, f"ip addr show dev {slave.name}"), (
        "an address would take traffic from the uplink"
    )
    shown = ip(node.netns, f"ip route show dev {slave.name}") + ip(node.netns, f"ip -6 route show dev {slave.name}")
    assert "10.7.0.20 proto static scope link src 10.7.0.1" in shown
    assert "fd07::20" in shown and "src fd07::1" in shown
    routes = inside(pod, lambda: netlink.routes(IFINDEX))
    assert {
        ("10.7.0.1/32", ""),
        ("fd07::1/128", ""),
        ("10.96.0.0/12", "10.7.0.1"),
        ("fd00:96::/108", "fd07::1"),
    } <= routes
    assert inside(pod, lambda: netlink.neighbours(IFINDEX)) == dict.fromkeys(("10.7.0.1", "fd07::1"), slave.mac)
    assert inside(pod, lambda: netlink.qdiscs(IFINDEX)) == {"noqueue"}, "no clsact, no programs"
    assert (
        ip(pod, "sysctl -n net.ipv4.conf.all.accept_redirects net.ipv4.conf.eth0.accept_redirects").split() == ["0"] * 2
    )
    assert node.run(lambda: check(facts, pod, kernel)) == []


def test_pod_node_and_sibling_reach_each_other(node: Node, kernel: Datapath, facts: PodWiring) -> None:
    """With strict reverse-path filters, which a distribution may have set."""
    ip(node.netns, "sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1")
    first, other = wired(node, kernel, facts), wired(node, kernel, second(facts))
    for source, target in ((first, "10.7.0.1"), (first, "10.7.0.21"), (other, "10.7.0.20"), (node.netns, "10.7.0.20")):
        ping(source, target)
    for source, target in ((first, "fd07::1"), (first, "fd07::21"), (node.netns, "fd07::21")):
        ping(source, target)


def test_an_end_leaves_only_what_the_uplink_has_and_idle_uplinks_have_nothing(
    node: Node, kernel: Datapath, facts: PodWiring
) -> None:
    pod, other = node.new_pod(), node.new_pod()
    ip(pod, "ip link set lo up")
    before = (fingerprint(node.netns), fingerprint(pod))
    node.run(lambda: wire(facts, pod, kernel))
    both = fingerprint(node.netns)
    node.run(lambda: wire(second(facts), other, kernel))
    for part in (unwire, reap, unwire):
        node.run(lambda part=part: part(second(facts), other, kernel))  # type: ignore[misc]
    assert fingerprint(node.netns) == both, "the sibling keeps its own"
    ping(node.netns, "10.7.0.20")
    for part in (unwire, reap):
        node.run(lambda part=part: part(facts, pod, kernel))  # type: ignore[misc]
    for _ in range(2):
        node.run(lambda: idle(kernel, facts))
    assert (fingerprint(node.netns), fingerprint(pod)) == before


def idle(kernel: Datapath, facts: PodWiring) -> None:
    with RouteSocket() as channel:
        node_side.remove_idle(kernel.plan, facts.uplink, channel)


@pytest.mark.parametrize("injection", [refuse_message, lose_answer, never_send])
def test_a_failure_at_any_step_leaves_nothing_of_the_pod(
    node: Node, kernel: Datapath, facts: PodWiring, injection: Callable[[pytest.MonkeyPatch, int], Breaker]
) -> None:
    """But for the node's own slave, which belongs to the uplink: it is made before and must not be lost."""
    pod, steps = node.new_pod(), 0
    ip(pod, "ip link set lo up")

    def ready() -> None:
        with RouteSocket() as channel:
            node_side.make_ready(facts, kernel.plan.reach(facts), channel)

    node.run(ready)
    before = (fingerprint(node.netns), fingerprint(pod))
    while True:
        with pytest.MonkeyPatch.context() as patch:
            breaker = injection(patch, steps + 1)
            try:
                node.run(lambda: wire(facts, pod, kernel))
                break
            except (NetlinkError, OSError):
                assert breaker.seen >= breaker.at
        steps += 1
        assert (fingerprint(node.netns), fingerprint(pod)) == before, f"left after a failure at step {steps}"
    assert steps == {refuse_message: 19, lose_answer: 5, never_send: 5}[injection], "a step was added: is it reached?"


@pytest.mark.parametrize(
    ("where", "command", "told"),
    [
        ("node", "ip link del {slave}", "the node has no link dl-"),
        ("node", "ip link set {slave} down", "not an {kind} slave of its uplink that is up"),
        ("node", "ip route del 10.7.0.20/32 dev {slave}", "the node has no route to 10.7.0.20/32"),
        ("pod", "ip route del 10.96.0.0/12", "the pod has no route 10.96.0.0/12 via 10.7.0.1"),
        ("pod", "ip neigh del 10.7.0.1 dev eth0", "the pod's permanent neighbour 10.7.0.1 is None"),
    ],
)
def test_check_tells_what_is_missing_and_restoring_mends_the_nodes_side(
    node: Node, kernel: Datapath, facts: PodWiring, where: str, command: str, told: str
) -> None:
    pod = wired(node, kernel, facts)
    ip(pod if where == "pod" else node.netns, command.format(slave=slave_name(facts)))
    found = node.run(lambda: check(facts, pod, kernel))
    assert any(told.format(kind=facts.kind) in line for line in found), found
    if where == "node":
        node.run(lambda: restored(kernel, facts))
        assert node.run(lambda: check(facts, pod, kernel)) == []
        ping(node.netns, "10.7.0.20")


def restored(kernel: Datapath, facts: PodWiring) -> None:
    """As a restarted agent does it: what the journal has is enough."""
    leftover = replace(facts, mode="", node_addresses=(), routes=(), default_route=False)
    with RouteSocket() as channel:
        node_side.restore(leftover, kernel.plan.reach(leftover), channel)


def test_a_router_does_not_give_the_nodes_slave_an_address(node: Node, kernel: Datapath, facts: PodWiring) -> None:
    wired(node, kernel, facts)
    folder = f"net.ipv6.conf.{slave_name(facts)}"
    assert ip(node.netns, f"sysctl -n {folder}.accept_ra {folder}.addr_gen_mode").split() == ["0", "1"]


KUBE_PROXY = """
table ip kube-proxy {
  chain prerouting { type nat hook prerouting priority dstnat;
    ip daddr 10.96.0.10 tcp dport 80 dnat to %s:8080
  }
  chain postrouting { type nat hook postrouting priority srcnat;
    ct status dnat masquerade
  }
}
"""


@pytest.mark.parametrize("backend", ["sibling", "node", "itself"])
def test_a_cluster_ip_goes_by_the_nodes_nat(node: Node, kernel: Datapath, facts: PodWiring, backend: str) -> None:
    """The ruleset stands where kube-proxy stands: DNAT of a ClusterIP at the hook nat prerouting, and masquerading
    behind it, as --masquerade-all has it."""
    client, sibling = wired(node, kernel, facts), wired(node, kernel, second(facts))
    place = {"sibling": (sibling, "10.7.0.21"), "node": (node.netns, "10.7.0.1"), "itself": (client, "10.7.0.20")}
    netns, address = place[backend]
    ip(node.netns, "sysctl -qw net.ipv4.ip_forward=1")
    nft(node.netns, KUBE_PROXY % address)
    for _ in range(3):
        assert talk(client, netns, "10.96.0.10", 80) == ("10.96.0.10", 80)


def nft(netns: int, rules: str) -> None:
    inside(netns, lambda: subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, timeout=30))


def talk(client: int, server: int, address: str, port: int) -> Any:
    """Whom the client believes to speak to, after a TCP exchange with a server on port 8080."""

    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", 8080))

    with inside(server, listen) as listener:
        listener.settimeout(5)
        with inside(client, lambda: socket.create_connection((address, port), timeout=5)) as connection:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert connection.recv(5) == b"hello"
                return connection.getpeername()
