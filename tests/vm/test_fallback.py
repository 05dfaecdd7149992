"""The netlink datapath on real IPvlan, two nodes: pods reach nodes, pods and ClusterIPs without a program.

Where kube-proxy stands, a ruleset of nftables stands here, at the same hooks: DNAT of ClusterIPs to their backends at
nat prerouting, and masquerading of what was translated at nat postrouting (kube-proxy with --masquerade-all). There is
one ClusterIP for each place that a backend can be at.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.demo import leftovers, scenario
from tests.testbed import netns
from tests.testbed.bed import Bed
from tests.testbed.kubelet import Sandbox
from tests.testbed.netns import ip_batch, nsenter, run
from tests.testbed.workload import load
from tests.vm.conftest import EXTRA, make_pod

PODS = {  # name: (network, node)
    "client": ("ipvlan-eth0", "master"),
    "sibling": ("ipvlan-eth0", "master"),
    "beside": ("ipvlan-eth1", "master"),
    "far": ("ipvlan-far", "master"),
    "dual-1": ("ipvlan-dual", "master"),
    "dual-2": ("ipvlan-dual", "master"),
    "remote": ("ipvlan-eth0", "worker"),
    "remote-1": ("ipvlan-eth1", "worker"),
}
MASTER, WORKER = "172.31.199.183", "172.31.199.184"
MASTER_1, WORKER_1 = "192.168.0.154", "192.168.0.155"
MASTER6, WORKER6 = "fd00:172::183", "fd00:172::184"
SERVICE_CIDRS = ("10.233.0.0/18", "fd00:233::/112")
PORT = 8080


@dataclass(frozen=True)
class Place:
    """A backend: the namespace that it runs in, its address, and the ClusterIP that leads to it alone."""

    netns: str
    address: str
    cluster_ip: str


@pytest.fixture(scope="module")
def bed() -> Iterator[Bed]:
    """Two nodes whose agents use no eBPF."""
    settings = {"datapath": "netlink", "service_cidr": SERVICE_CIDRS}
    with Bed(load([*scenario.MANIFESTS, EXTRA]), scenario.CLUSTER_IPS, cooldown_s=2.0, settings=settings) as built:
        for node in built.vpc.nodes:  # as kube-proxy has them
            netns.write_sysctls(built.vpc.node_netns(node), {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"})
        built.start_agents()
        yield built


@pytest.fixture(scope="module")
def empty_state(bed: Bed) -> dict[str, frozenset[str]]:
    """The nodes' kernel state while no pod has ever run."""
    return {node: leftovers.node_state(bed.vpc.node_netns(node)) for node in bed.agents}


@pytest.fixture(scope="module")
def pods(bed: Bed, empty_state: dict[str, frozenset[str]]) -> Iterator[dict[str, Sandbox]]:
    """All pods by name."""
    wanted = [make_pod(name, f"kube-system/{network}", node=node) for name, (network, node) in PODS.items()]
    yield {sandbox.name: sandbox for sandbox in bed.start_pods(wanted)}
    bed.stop_pods(bed.sandboxes)


@pytest.fixture(scope="module")
def places(bed: Bed, pods: dict[str, Sandbox]) -> Iterator[dict[str, Place]]:
    """Every backend, with kube-proxy's stand-in on master."""
    six = {name: next(a for a in pods[name].addresses if ":" in a) for name in ("dual-1", "dual-2")}
    master, worker = bed.vpc.node_netns("master"), bed.vpc.node_netns("worker")
    backends = {name: (pod.netns, pod.address) for name, pod in pods.items()}
    backends |= {"node": (master, MASTER), "node by its other uplink": (master, MASTER_1)}
    backends |= {"other node": (worker, WORKER), "node6": (master, MASTER6), "other node6": (worker, WORKER6)}
    backends |= {f"{name}6": (pods[name].netns, address) for name, address in six.items()}
    found = {}
    for number, (name, (where, address)) in enumerate(backends.items(), 1):
        found[name] = Place(where, address, f"fd00:233::{number:x}" if ":" in address else f"10.233.0.{number}")
    run(nsenter(master, ["nft", "-f", "-"]), stdin=kube_proxy(found))
    yield found
    run(nsenter(master, ["nft", "delete table ip kube-proxy; delete table ip6 kube-proxy"]))


def kube_proxy(places: Mapping[str, Place]) -> str:
    """The ruleset, both families."""
    lines = []
    for family, six in (("ip", False), ("ip6", True)):
        lines += [f"table {family} kube-proxy {{", "chain services {", "type nat hook prerouting priority dstnat;"]
        for place in places.values():
            if (":" in place.address) == six:
                target = f"[{place.address}]" if six else place.address
                lines.append(f"{family} daddr {place.cluster_ip} meta l4proto {{ tcp, udp }} dnat to {target}")
        lines += ["}", "chain leaving {", "type nat hook postrouting priority srcnat;", "ct status dnat masquerade"]
        lines += ["}", "}"]
    return "\n".join(lines) + "\n"


def tcp(client: str, place: Place) -> tuple[str, str]:
    """Whom the client believes to speak to, and whom the backend sees."""
    any_address = "::" if ":" in place.address else "0.0.0.0"
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    with netns.enter(place.netns, lambda: socket.create_server((any_address, PORT), family=family)) as listener:
        listener.settimeout(10)
        where = (place.cluster_ip, PORT)
        with netns.enter(client, lambda: socket.create_connection(where, timeout=10)) as connection:
            accepted, peer = listener.accept()
            with accepted:
                accepted.sendall(b"hello" * 4000)
                received = b""
                while len(received) < 20000 and (part := connection.recv(65536)):
                    received += part
                assert received == b"hello" * 4000
                return connection.getpeername()[0], peer[0]


def udp(client: str, place: Place) -> str:
    """From whom the client hears the answer to its datagram.

    The server is bound to its address: one bound to any answers from the address that is nearest to the client, on a
    node with two NICs with either datapath.
    """

    def bound() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((place.address, PORT))
        return made

    with netns.enter(place.netns, bound) as server:
        server.settimeout(10)
        with netns.enter(client, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asker:
            asker.settimeout(10)
            asker.sendto(b"who", (place.cluster_ip, PORT))
            _, peer = server.recvfrom(100)
            server.sendto(b"me", peer)
            return str(asker.recvfrom(100)[1][0])


@pytest.mark.parametrize("backend", ["remote", "remote-1", "sibling", "beside", "far", "node", "other node", "client"])
@pytest.mark.parametrize("client", ["client", "beside", "far"])
def test_a_cluster_ip(pods: dict[str, Sandbox], places: dict[str, Place], client: str, backend: str):
    """ "client" at both ends is a pod that calls itself by its Service."""
    place = places[backend]
    for _ in range(3):  # a redirect would do its harm after the first
        assert tcp(pods[client].netns, place)[0] == place.cluster_ip
    assert udp(pods[client].netns, place) == place.cluster_ip


def test_a_service_that_comes_after_the_first_calls(bed: Bed, pods: dict[str, Sandbox], places: dict[str, Place]):
    """Until then the node sends the packets on to its gateway, out by the NIC that they came in by, and would have the
    pod do the same from then on (ICMP redirect)."""
    master, address, pod = bed.vpc.node_netns("master"), "10.233.0.200", pods["client"].netns
    for _ in range(3):
        with pytest.raises(scenario.Deviation, match="0 of 1 answers"):
            scenario.ping(pod, address, count=1)
    rule = f"add rule ip kube-proxy services ip daddr {address} tcp dport {PORT} dnat to {places['remote'].address}"
    run(nsenter(master, ["nft", rule]))
    assert f"via {MASTER} " in run(["ip", "-n", pod, "route", "get", address])
    assert tcp(pod, Place(places["remote"].netns, places["remote"].address, address))[0] == address


@pytest.mark.parametrize("backend", ["dual-2", "node", "other node", "dual-1"])
def test_a_cluster_ip_of_ipv6(pods: dict[str, Sandbox], places: dict[str, Place], backend: str):
    place = places[f"{backend}6"]
    for _ in range(3):
        assert tcp(pods["dual-1"].netns, place)[0] == place.cluster_ip


def test_backends_see_the_nodes_address_and_local_ones_on_the_node_the_pods(
    pods: dict[str, Sandbox], places: dict[str, Place]
):
    assert tcp(pods["client"].netns, places["remote"])[1] == MASTER
    assert tcp(pods["client"].netns, places["node"])[1] == pods["client"].address


def test_a_node_port_on_an_address_of_the_node(bed: Bed, pods: dict[str, Sandbox], places: dict[str, Place]):
    """kube-proxy's rule for a NodePort is one for the node's own addresses; here, for one port."""
    master, target = bed.vpc.node_netns("master"), places["remote"].address
    run(
        nsenter(master, ["nft", f"add rule ip kube-proxy services ip daddr {MASTER} tcp dport {PORT} dnat to {target}"])
    )
    place = Place(places["remote"].netns, target, MASTER)
    assert tcp(pods["client"].netns, place)[0] == MASTER
    rules = run(nsenter(master, ["nft", "-a", "list", "chain", "ip", "kube-proxy", "services"]))
    handle = next(line.split()[-1] for line in rules.splitlines() if f"daddr {MASTER} " in line)
    run(nsenter(master, ["nft", f"delete rule ip kube-proxy services handle {handle}"]))


@pytest.mark.parametrize("name", ["client", "sibling", "beside", "far", "dual-1"])
def test_pod_and_node_reach_each_other(bed: Bed, pods: dict[str, Sandbox], name: str):
    master, pod = bed.vpc.node_netns("master"), pods[name]
    for address in (MASTER, MASTER_1):
        scenario.ping(pod.netns, address, count=1)
    for address in pod.addresses:
        scenario.ping(master, address, count=1)
        scenario.ping(bed.vpc.node_netns("worker"), address, count=1)
    if ":" in "".join(pod.addresses):
        scenario.ping(pod.netns, MASTER6, count=1)


def test_pods_reach_pods(pods: dict[str, Sandbox]):
    for source in ("client", "beside", "far", "remote"):
        for target in pods.values():
            scenario.ping(pods[source].netns, target.address, count=1)
    first, second = (next(a for a in pods[name].addresses if ":" in a) for name in ("dual-1", "dual-2"))
    scenario.ping(pods["dual-1"].netns, second, count=1)
    scenario.ping(pods["dual-2"].netns, first, count=1)


def test_the_cloud_dropped_nothing(bed: Bed, pods: dict[str, Sandbox], places: dict[str, Place]):
    tcp(pods["client"].netns, places["remote"])
    assert bed.vpc.dropped() == 0, bed.vpc.counters()


def test_services_go_on_without_the_agent_and_a_restart_mends_the_node(
    bed: Bed, pods: dict[str, Sandbox], places: dict[str, Place]
):
    agent, master = bed.agents["master"], bed.vpc.node_netns("master")
    agent.kill()
    assert tcp(pods["client"].netns, places["remote"])[0] == places["remote"].cluster_ip
    names = [line.split(": ")[1].split("@")[0] for line in run(["ip", "-n", master, "-o", "link"]).splitlines()]
    own = [name for name in names if name.startswith("dl-")]
    assert len(own) == 2, "one for each uplink"
    ip_batch([f"link del {name}" for name in own], master)
    agent.start()
    agent.wait_ready()
    for name, (_, node) in PODS.items():
        if node == "master":
            bed.kubelets["master"].check(pods[name])
            scenario.ping(master, pods[name].address, count=1)
    assert tcp(pods["client"].netns, places["sibling"])[0] == places["sibling"].cluster_ip


def test_the_node_finds_its_pods_after_an_uplink_was_down(bed: Bed, pods: dict[str, Sandbox], places: dict[str, Place]):
    master = bed.vpc.node_netns("master")
    run(nsenter(master, ["sysctl", "-qw", "net.ipv6.conf.eth1.keep_addr_on_down=1"]))
    ip_batch(["link set eth1 down", "link set eth1 up"], master)
    scenario.eventually("after the uplink came back", lambda: _unreached(master, pods["beside"].address))
    assert tcp(pods["beside"].netns, places["remote"])[0] == places["remote"].cluster_ip


def _unreached(node: str, address: str) -> str:
    try:
        scenario.ping(node, address, count=1)
    except scenario.Deviation as deviation:
        return str(deviation)
    return ""


def test_the_end_of_a_pod_leaves_nothing(bed: Bed, pods: dict[str, Sandbox], empty_state: dict[str, frozenset[str]]):
    """The last test: afterwards no pod is left, neither its routes and neighbours nor the node's own slaves."""
    scenario.wait_for_pools(bed, {"master-172": 2, "worker-172": 1})
    rules = {line for line in leftovers.node_state(bed.vpc.node_netns("master")) if line.startswith("nft ")}
    bed.stop_pods(bed.sandboxes)
    before = {node: lines | (rules if node == "master" else set()) for node, lines in empty_state.items()}
    scenario.nothing_left(bed, before)
