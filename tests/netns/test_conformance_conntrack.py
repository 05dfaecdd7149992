"""[sig-network] Conntrack: flows whose endpoints come and go, and segments out of place, as pods see them.

Each test's docstring is the name of the upstream test; each runs over both families and both paths (tc and socket).
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from tests.netns.service_cluster import ServiceCluster, port
from tests.testbed import ask, netns
from tests.testbed.echo import Heard

SOURCE_PORT = 12345
NODE_PORT = 30060
WAYS = {"ClusterIP": 80, "NodePort": NODE_PORT}


def create(cluster: ServiceCluster, way: str, behind: Sequence[str]) -> list[str]:
    """A UDP Service; the addresses by which it is called."""
    ports = [port(80, 8080, "UDP", node_port=NODE_PORT if way == "NodePort" else 0)]
    vips = cluster.create("cycled", ports, behind=behind, type=way)
    return vips if way == "ClusterIP" else cluster.node_addresses("worker")


@contextmanager
def clients(cluster: ServiceCluster, addresses: Sequence[str]) -> Iterator[dict[str, socket.socket]]:
    """One unconnected socket per address that lives as long as the test, as a DNS client's may."""
    with ExitStack() as stack:
        where = cluster.pods["client"].netns
        yield {
            address: stack.enter_context(ask.datagrams(where, address, 0, connected=False, timeout_s=0.3))
            for address in addresses
        }


def reaches(cluster: ServiceCluster, kept: dict[str, socket.socket], number: int, pod: str) -> None:
    """Both the kept socket and new ones with one and the same source port are answered by the pod, for good."""
    where = cluster.pods["client"].netns
    for address, one in kept.items():

        def wrong(address: str = address, one: socket.socket = one) -> str:
            names = {Heard.of(ask.answer(one, b"who", (address, number))).name for _ in range(3)}
            for _ in range(3):
                with ask.datagrams(
                    where, address, number, connected=True, source_port=SOURCE_PORT, timeout_s=0.3
                ) as new:
                    names.add(Heard.of(ask.answer(new, b"who")).name)
            return "" if names == {pod} else f"answered by {names}"

        cluster.eventually(f"datagrams to {address} {number}", wrong)


@pytest.mark.parametrize("way", WAYS)
def test_should_be_able_to_preserve_udp_traffic_when_server_pod_cycles(cluster: ServiceCluster, way: str):
    """Conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP / NodePort service"""
    cluster.start("server-1", node="worker")
    addresses, number = create(cluster, way, ["server-1"]), WAYS[way]
    with clients(cluster, addresses) as kept:
        reaches(cluster, kept, number, "server-1")
        cluster.start("server-2", node="worker")
        cluster.behind("cycled", "server-1", "server-2")
        cluster.stop("server-1")
        reaches(cluster, kept, number, "server-2")


@pytest.mark.parametrize("way", WAYS)
def test_should_be_able_to_preserve_udp_traffic_when_initial_unready_endpoints_get_ready(
    cluster: ServiceCluster, way: str
):
    """Conntrack should be able to preserve UDP traffic when initial unready endpoints get ready; and through a phase
    without endpoints later on"""
    for pod in ("two", "four"):
        cluster.state(pod, ready=False)
    addresses, number = create(cluster, way, ["two", "four"]), WAYS[way]
    cluster.refused(addresses, number, protocol="UDP")
    with clients(cluster, addresses) as kept:
        for address, one in kept.items():
            with pytest.raises(TimeoutError):
                ask.answer(one, b"who", (address, number))
        for pod in ("two", "four"):
            cluster.state(pod)
            reaches(cluster, kept, number, pod)
            cluster.state(pod, ready=False)
            cluster.refused(addresses, number, protocol="UDP")


def test_should_drop_invalid_conntrack_entries(cluster: ServiceCluster):
    """Conntrack should drop INVALID conntrack entries [Privileged]: stray segments of the endpoint, far out of window,
    must not end the connection (kubernetes #74839)"""
    for vip in cluster.create("invalid", [port()], behind=["two"]):
        cluster.served([vip], ["two"])
        with ask.connect(cluster.pods["client"].netns, vip, 80) as stream:
            assert ask.greeting(stream).name == "two"
            for flags, sequence in (("A", 1), ("PA", 2**31), ("A", 2**32 - 1)):
                send_stray(cluster, stream, "two", flags, sequence)
                ask.exchange(stream, b"still here" * 1000)


def send_stray(cluster: ServiceCluster, stream: socket.socket, pod: str, flags: str, sequence: int) -> None:
    """A segment from the pod's server to the client's socket that no stack would send now."""
    client, client_port = stream.getsockname()[:2]
    six = ":" in client
    server = next(a for a in cluster.pods[pod].addresses if (":" in a) == six)
    header = (IPv6 if six else IP)(src=server, dst=client)
    packet = bytes(header / TCP(sport=8080, dport=client_port, flags=flags, seq=sequence, ack=1) / b"stray")
    family = socket.AF_INET6 if six else socket.AF_INET
    where = cluster.pods[pod].netns
    with netns.enter(where, lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)) as raw:
        raw.sendto(packet, (client, 0))


def test_connections_to_a_terminating_endpoint_go_on(cluster: ServiceCluster):
    """Of the upstream tests of terminating endpoints: who is connected stays so while the pod drains"""
    for vip in cluster.create("draining", [port()], behind=["two", "three"]):
        cluster.state("two")
        cluster.served([vip], ["two", "three"])
        while True:
            stream = ask.connect(cluster.pods["client"].netns, vip, 80)
            if ask.greeting(stream).name == "two":
                break
            stream.close()
        with stream:
            cluster.state("two", terminating=True)
            cluster.served([vip], ["three"])
            ask.exchange(stream, b"until the end" * 10000)
