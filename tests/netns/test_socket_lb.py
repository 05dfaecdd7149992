"""Pods' sockets balanced in connect: what the pod sees is the Service, what is on the wire is a backend."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from datapath.abi import ADDRESS_NODE, Verdict
from datapath.entries import pack_ip
from datapath.flows import Affinity, AffinityKey
from datapath.sockdiag import DiagSocket
from datapath.table import Number
from tests.netns.node import inside, ip
from tests.netns.socket_node import (
    CLIENT,
    DGRAM,
    NUMBERS,
    ONE,
    PORT,
    STREAM,
    TARGET_PORT,
    TRANSLATIONS,
    TWO,
    WAYS,
    SocketNode,
    Way,
    address,
    ask,
    connected,
    direct_name,
    wire_name,
)


@pytest.fixture
def node(balanced_node: SocketNode) -> SocketNode:
    """The node without Services."""
    balanced_node.empty()
    return balanced_node


def test_tcp(node: SocketNode, way: Way):
    """The server sees the pod, the pod sees the Service, tc has nothing to translate."""
    node.serve(way.vip, "TCP", [ONE])

    def call() -> str:
        with connected(node, way, STREAM) as sock:
            assert sock.getpeername()[:2] == (way.named, PORT)
            assert node.wire_peer(sock, "TCP") == wire_name(ONE, way.vip)
            return ask(sock)

    told, counts = node.counted(call)
    assert told == f"one {address(CLIENT, way.vip)}"
    assert (counts[Verdict.VERDICT_SOCKET], counts[Verdict.VERDICT_SOCKET_ANSWER]) == (1, 1)
    assert not TRANSLATIONS & counts.keys()
    assert node.maps.flow_counters.get(Number(1)).opened == 1  # type: ignore[union-attr]
    assert not list(node.maps.conntrack.items())


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_hairpin(node: SocketNode, way: Way, kind: int):
    """A pod that meets itself goes over its loopback: tc sees nothing of it."""
    node.serve(way.vip, "TCP" if kind == STREAM else "UDP", [CLIENT])

    def looped() -> int:
        text = inside(node.pods[CLIENT], Path("/proc/thread-self/net/dev").read_text)
        return int(text.split("lo:")[1].split()[1])

    def call() -> None:
        with connected(node, way, kind) as sock:
            if kind == DGRAM:
                sock.send(b"who")
            assert ask(sock) == f"client {address(CLIENT, way.vip)}"
            assert sock.getpeername()[:2] == (way.named, PORT)

    before = looped()
    _, counts = node.counted(call)
    assert looped() >= before + 2
    assert not TRANSLATIONS & counts.keys()


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_node_port(node: SocketNode, way: Way, kind: int):
    """A NodePort at an address of the node, or at another node's."""
    any_address, named = ("::", "fd07::1") if way.named == way.vip and ":" in way.vip else ("0.0.0.0", "10.7.0.1")
    node.serve(any_address, "TCP" if kind == STREAM else "UDP", [ONE], port=30080)
    node.maps.put_local(named, 0, ADDRESS_NODE)
    there = Way(way.family, f"::ffff:{named}" if way is WAYS["mapped"] else named, named)
    try:
        with connected(node, there, kind, port=30080) as sock:
            if kind == DGRAM:
                sock.send(b"who")
            assert ask(sock).startswith(ONE)
            assert sock.getpeername()[:2] == (there.named, 30080)
    finally:
        node.maps.delete_local(named, 0)


@pytest.mark.parametrize("port", [PORT, PORT + 1])
def test_refused(node: SocketNode, way: Way, port: int):
    """No backends, or no such port: the socket hooks leave the destination alone, tc refuses it."""
    node.serve(way.vip, "TCP", [])
    with pytest.raises(ConnectionRefusedError):
        connected(node, way, STREAM, port=port).close()


def test_others_are_left_alone(node: SocketNode):
    """Processes of the node and of foreign namespaces call the Service's own address; so does no pod's raw socket."""
    way = WAYS["ipv4"]
    node.serve(way.vip, "UDP", [ONE])
    foreign = node.node.new_pod()
    ip(foreign, "ip link set lo up", "ip route add 10.96.0.0/16 dev lo")
    ip(node.node.netns, "ip route replace 10.96.0.0/16 dev eth0")
    for where in (foreign, node.node.netns):
        with inside(where, lambda: socket.socket(socket.AF_INET, DGRAM)) as sock:
            _, counts = node.counted(lambda sock=sock: sock.connect((way.named, PORT)))
            assert Verdict.VERDICT_SOCKET not in counts
            node.pods["other"] = where
            assert node.wire_peer(sock, "UDP", "other") == (pack_ip(way.vip), PORT)
            del node.pods["other"]


def test_other_destinations_are_left_alone(node: SocketNode, way: Way):
    """A pod's own loopback, a server called by its address: untouched."""
    node.serve(way.vip, "TCP", [ONE])
    loopback = "::1" if way is WAYS["ipv6"] else way.named.replace("10.96.0.10", "127.0.0.1")
    for named, who in ((loopback, CLIENT), (direct_name(way, TWO), TWO)):
        with node.socket(way, STREAM) as sock:
            _, counts = node.counted(lambda sock=sock, named=named: sock.connect((named, TARGET_PORT)))
            assert ask(sock).startswith(who)
            assert sock.getpeername()[0] == named
        assert not {Verdict.VERDICT_SOCKET, Verdict.VERDICT_SOCKET_ANSWER} & counts.keys()


def test_affinity(node: SocketNode, way: Way):
    """Sockets of one pod stay with one backend, by the entry that packets in tc use: pod's address and service."""
    node.serve(way.vip, "TCP", [ONE, TWO], affinity_s=3600)
    names = set()
    for _ in range(10):
        with connected(node, way, STREAM) as sock:
            names.add(ask(sock).split()[0])
    assert len(names) == 1
    key = AffinityKey(address(CLIENT, way.vip), 1)
    entry = node.maps.affinity.get(key)
    assert entry is not None
    other = ({ONE, TWO} - names).pop()
    node.maps.affinity.put(key, Affinity(11 + list(NUMBERS).index(other), entry.last_used_ns))
    with connected(node, way, STREAM) as sock:
        assert ask(sock).startswith(other)


def test_flows_are_spread(node: SocketNode, way: Way):
    node.serve(way.vip, "TCP", [ONE, TWO])
    names = []
    for _ in range(60):
        with connected(node, way, STREAM) as sock:
            names.append(ask(sock).split()[0])
    assert min(names.count(ONE), names.count(TWO)) >= 10  # fails once in 10^7


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_closed_by_diag(node: SocketNode, way: Way, kind: int):
    """What the agent does to the sockets of a removed backend."""
    protocol = "TCP" if kind == STREAM else "UDP"
    node.serve(way.vip, protocol, [ONE])
    with connected(node, way, kind) as sock, connected(node, way, kind) as other:
        seen = node.kernel_view(sock, protocol)

        def close() -> bool:
            with DiagSocket() as diag:
                return diag.destroy(seen)

        assert inside(node.pods[CLIENT], close)
        with pytest.raises(ConnectionAbortedError):
            sock.recv(100) if kind == DGRAM else [sock.recv(100) for _ in range(3)]
        assert not inside(node.pods[CLIENT], close), "a second time there is nothing to close"
        if kind == DGRAM:
            other.send(b"who")
        assert ask(other).startswith(ONE)
