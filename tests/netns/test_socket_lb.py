"""Pods' sockets balanced in connect and sendmsg: what the pod sees is the Service, what is on the wire is a backend."""

from __future__ import annotations

import ctypes
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from datapath.abi import ADDRESS_NODE, Verdict
from datapath.entries import pack_ip
from datapath.flows import Affinity, AffinityKey
from datapath.loader import Programs
from datapath.sockdiag import DiagSocket
from datapath.table import Number
from tests.netns.node import inside, ip
from tests.netns.socket_node import (
    CLIENT,
    NUMBERS,
    ONE,
    PORT,
    TARGET_PORT,
    TRANSLATIONS,
    TWO,
    WAYS,
    SocketNode,
    Way,
    address,
    ask,
    named_servers,
    wire_name,
)

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(scope="module")
def built(programs: Programs) -> Iterator[SocketNode]:
    """The node, attached; every pod has servers."""
    made = SocketNode(programs)
    try:
        made.attach()
        with ExitStack() as servers:
            for name, fd in made.pods.items():
                servers.enter_context(named_servers(fd, name))
            yield made
    finally:
        made.close()


@pytest.fixture
def node(built: SocketNode) -> SocketNode:
    """The node without Services."""
    built.empty()
    return built


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Every way to name a Service."""
    return WAYS[request.param]


def connected(node: SocketNode, way: Way, kind: int, pod: str = CLIENT, port: int = PORT) -> socket.socket:
    """A socket connected to the VIP."""
    made = node.socket(way, kind, pod)
    try:
        made.connect((way.named, port))
    except BaseException:
        made.close()
        raise
    return made


def asked(sock: socket.socket, way: Way, port: int = PORT) -> tuple[str, tuple[str, int]]:
    """A datagram to the VIP: the answer's text and source."""
    sock.sendto(b"who", (way.named, port))
    data, source = sock.recvfrom(2048)
    return data.decode().strip(), source[:2]


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


def test_udp_connected(node: SocketNode, way: Way):
    node.serve(way.vip, "UDP", [ONE])

    def call() -> tuple[bytes, tuple[str, int]]:
        with connected(node, way, DGRAM) as sock:
            assert sock.getpeername()[:2] == (way.named, PORT)
            sock.send(b"who")
            data, source = sock.recvfrom(2048)
            return data, source[:2]

    (data, source), counts = node.counted(call)
    assert data.decode().strip() == f"one {address(CLIENT, way.vip)}"
    assert source == (way.named, PORT)
    assert counts[Verdict.VERDICT_SOCKET] == 1
    assert not TRANSLATIONS & counts.keys()


def test_udp_unconnected(node: SocketNode, way: Way):
    """The answer comes from the VIP; the socket stays with its backend, others choose for themselves."""
    node.serve(way.vip, "UDP", [ONE, TWO])

    def call() -> set[str]:
        names = set()
        for _ in range(30):
            with node.socket(way, DGRAM) as sock:
                first, source = asked(sock, way)
                assert source == (way.named, PORT)
                assert {asked(sock, way) for _ in range(3)} == {(first, source)}
                names.add(first.split()[0])
        return names

    names, counts = node.counted(call)
    assert names == {ONE, TWO}
    assert counts[Verdict.VERDICT_SOCKET] == counts[Verdict.VERDICT_SOCKET_ANSWER] == 120
    assert not TRANSLATIONS & counts.keys()
    assert node.maps.flow_counters.get(Number(1)).opened == 30  # type: ignore[union-attr]


@pytest.mark.parametrize("end", ["removed", "draining"])
def test_datagrams_leave_a_backend_that_is_gone(node: SocketNode, way: Way, end: str):
    node.serve(way.vip, "UDP", [ONE])
    with node.socket(way, DGRAM) as sock:
        assert asked(sock, way)[0].startswith(ONE)
        node.serve(way.vip, "UDP", [TWO])
        if end == "draining":
            node.drain(way.vip, ONE)
        (told, source), counts = node.counted(lambda: asked(sock, way))
    assert told.startswith(TWO)
    assert source == (way.named, PORT)
    assert counts[Verdict.EVENT_FLOW_MOVED] == 1


def test_datagrams_stay_while_the_service_is_empty(node: SocketNode, way: Way):
    """Without a backend the datagram is tc's to refuse; with the next backend the same socket goes on."""
    node.serve(way.vip, "UDP", [ONE])
    with node.socket(way, DGRAM) as sock:
        asked(sock, way)
        node.serve(way.vip, "UDP", [])
        _, counts = node.counted(lambda: sock.sendto(b"who", (way.named, PORT)))
        assert Verdict.VERDICT_SOCKET not in counts
        node.serve(way.vip, "UDP", [TWO])
        sock.setblocking(False)
        with suppress(OSError):  # takes the ICMP error, where one was noted
            sock.recv(100)
        sock.settimeout(5)
        assert asked(sock, way)[0].startswith(TWO)


@pytest.mark.parametrize("kind", [STREAM, DGRAM])
def test_hairpin(node: SocketNode, way: Way, kind: int):
    """A pod that meets itself goes over its loopback: its slave sends nothing."""
    node.serve(way.vip, "TCP" if kind == STREAM else "UDP", [CLIENT])

    def sent() -> int:
        text = inside(node.pods[CLIENT], Path("/proc/thread-self/net/dev").read_text)
        return int(text.split("eth0:")[1].split()[9])

    before = sent()
    with connected(node, way, kind) as sock:
        if kind == DGRAM:
            sock.send(b"who")
        assert ask(sock) == f"client {address(CLIENT, way.vip)}"
        assert sock.getpeername()[:2] == (way.named, PORT)
    assert sent() == before


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
    direct = address(TWO, way.vip) if way is not WAYS["mapped"] else f"::ffff:{address(TWO, way.vip)}"
    for named, who in ((loopback, CLIENT), (direct, TWO)):
        with node.socket(way, STREAM) as sock:
            _, counts = node.counted(lambda sock=sock, named=named: sock.connect((named, TARGET_PORT)))
            assert ask(sock).startswith(who)
            assert sock.getpeername()[0] == named
        assert not {Verdict.VERDICT_SOCKET, Verdict.VERDICT_SOCKET_ANSWER} & counts.keys()


def direct_name(way: Way, pod: str) -> str:
    """A pod's address as a socket of that way names it."""
    return f"::ffff:{address(pod, way.vip)}" if way is WAYS["mapped"] else address(pod, way.vip)


def test_reconnected(node: SocketNode, way: Way):
    """One UDP socket: Service, its backend by its own name, dissolved, another Service with the same backend."""
    node.serve(way.vip, "UDP", [ONE])
    node.serve(way.vip, "UDP", [ONE], number=2, port=81)
    with connected(node, way, DGRAM) as sock:
        assert sock.getpeername()[:2] == (way.named, PORT)
        sock.connect((direct_name(way, ONE), TARGET_PORT))
        assert sock.getpeername()[:2] == (direct_name(way, ONE), TARGET_PORT)
        sock.connect((way.named, 81))
        assert sock.getpeername()[:2] == (way.named, 81)
        unconnect(sock)
        with pytest.raises(OSError) as caught:
            sock.getpeername()
        assert caught.value.errno == errno.ENOTCONN
        assert asked(sock, way)[1] == (way.named, PORT)


def unconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC), which Python's socket cannot say."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(sock.fileno(), bytes(28), 28) == 0, ctypes.get_errno()


def test_a_backend_called_by_its_own_name(node: SocketNode, way: Way):
    """One unconnected socket: the answer has the name that was used last."""
    node.serve(way.vip, "UDP", [ONE])
    there = (direct_name(way, ONE), TARGET_PORT)
    with node.socket(way, DGRAM) as sock:
        for _ in range(2):
            assert asked(sock, way)[1] == (way.named, PORT)
            sock.sendto(b"who", there)
            assert sock.recvfrom(2048)[1][:2] == there


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
