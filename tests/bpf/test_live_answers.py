"""What a pod's sockets make of refusals, echo replies, ICMP errors and fragments: real packets, real stack."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_FRONTEND, Verdict
from datapath.loader import Programs
from datapath.table import Number
from tests.bpf.rig import Rig
from tests.bpf.test_live import Wire, counted
from tests.netns.node import inside, ip, new_netns
from tests.packets import FAR, FAR_V6, GATEWAY_MAC, GATEWAY_V6, POD_ONE, POD_ONE_V6, VIP, VIP_V6

V = Verdict
VIPS, FARS, PODS = {4: VIP, 6: VIP_V6}, {4: FAR, 6: FAR_V6}, {4: POD_ONE, 6: POD_ONE_V6}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
families = pytest.mark.parametrize("family", [4, 6], ids=["v4", "v6"])


@pytest.fixture
def wire(programs: Programs, rig: Rig) -> Iterator[Wire]:
    """The wire of test_live.py with both families."""
    made = Wire(programs)
    gateway = f"{GATEWAY_V6} lladdr {GATEWAY_MAC} dev slave"
    ip(made.pod, f"ip address add {POD_ONE_V6}/64 dev slave nodad", f"ip route add default via {GATEWAY_V6}")
    ip(made.pod, f"ip neighbour add {gateway}")
    ip(made.world, *(f"ip address add {one} dev wire nodad" for one in (f"{GATEWAY_V6}/64", f"{FAR_V6}/128")))
    try:
        wait_for_addresses(made.world, GATEWAY_V6, FAR_V6)
        yield made
    finally:
        made.close()


def wait_for_addresses(netns: int, *addresses: str) -> None:
    """The kernel makes an IPv6 address's local route later, in a worker: until then packets to it are lost."""
    end = time.monotonic() + 10
    while not all(f"local {address} " in ip(netns, "ip -6 route show table local") for address in addresses):
        assert time.monotonic() < end, addresses


def open_socket(family: int, kind: int, address: str = "", port: int = 0) -> socket.socket:
    made = socket.socket(FAMILIES[family], kind)
    made.settimeout(5)
    if address:
        made.bind((address, port))
    return made


def empty_service(rig: Rig, family: int, protocol: str) -> None:
    rig.service((VIPS[family], 80, protocol), {})


def counting(rig: Rig, work: Callable[[], None]) -> dict[Verdict, int]:
    """The drops and events that went up while `work` ran."""
    before = rig.maps.counters()
    work()
    after = counted(rig, before)
    return {v: n for v, n in after.items() if n and (v.name.startswith(("DROP", "EVENT")) or v is V.VERDICT_ECHO)}


@families
@pytest.mark.parametrize("port", [80, 81], ids=["no-endpoints", "unknown-port"])
def test_connect_is_refused_at_once(rig: Rig, wire: Wire, family: int, port: int) -> None:
    empty_service(rig, family, "TCP")

    def connect() -> None:
        with pytest.raises(ConnectionRefusedError):
            inside(wire.pod, lambda: socket.create_connection((VIPS[family], port), timeout=5))

    reason = V.DROP_NO_BACKEND if port == 80 else V.DROP_UNKNOWN_PORT
    assert counting(rig, connect) == {reason: 1, V.EVENT_REFUSED_RESET: 1}


@families
def test_a_connected_datagram_socket_is_told(rig: Rig, wire: Wire, family: int) -> None:
    empty_service(rig, family, "UDP")

    def ask() -> None:
        with inside(wire.pod, lambda: open_socket(family, socket.SOCK_DGRAM)) as client:
            client.connect((VIPS[family], 80))
            client.send(b"q" * 900)
            with pytest.raises(ConnectionRefusedError):
                client.recv(100)

    assert counting(rig, ask) == {V.DROP_NO_BACKEND: 1, V.EVENT_REFUSED_ICMP: 1}


@families
def test_a_connection_to_a_removed_backend_is_reset(rig: Rig, wire: Wire, family: int) -> None:
    rig.service((VIPS[family], 80, "TCP"), {1: (FARS[family], 8080)})
    server = inside(wire.world, lambda: open_socket(family, socket.SOCK_STREAM, FARS[family], 8080))
    server.listen()
    with server, inside(wire.pod, lambda: socket.create_connection((VIPS[family], 80), timeout=5)) as client:
        connection, _ = server.accept()
        with connection:
            client.sendall(b"x" * 100_000)
            rig.maps.backends.delete(Number(1))

            def use() -> None:
                with pytest.raises(ConnectionResetError):
                    client.sendall(b"x")
                    client.recv(1)

            found = counting(rig, use)
    assert found[V.DROP_BACKEND_REMOVED] >= 1
    assert found[V.EVENT_REFUSED_RESET] >= 1


@families
def test_ping(rig: Rig, wire: Wire, family: int) -> None:
    """A ClusterIP with endpoints answers; one without is unreachable, and that is no answer."""
    rig.service((VIPS[family], 80, "TCP"), {1: (FARS[family], 8080)})

    def ping() -> subprocess.CompletedProcess[str]:
        command = ["ping", "-c", "2", "-i", "0.2", "-W", "2", "-s", "1000", VIPS[family]]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    done: list[subprocess.CompletedProcess[str]] = []
    assert counting(rig, lambda: done.append(inside(wire.pod, ping))) == {V.VERDICT_ECHO: 2}
    assert done[0].returncode == 0, done[0].stdout
    rig.maps.mark_address(VIPS[family], ~0, ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP)
    assert inside(wire.pod, ping).returncode == 1


@families
def test_path_mtu_is_learned_through_the_cluster_ip(rig: Rig, wire: Wire, family: int) -> None:
    """A router on the way cannot pass large packets: its error reaches the pod's socket, the transfer ends well."""
    rig.service((VIPS[family], 80, "TCP"), {1: ("10.77.0.2" if family == 4 else "fd77::2", 8080)})
    server_netns = behind_a_narrow_link(wire)
    size = 1_000_000
    got: list[int] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        connection.settimeout(10)
        with connection:
            total = 0
            while total < size and (part := connection.recv(1 << 16)):
                total += len(part)
            got.append(total)

    address = "10.77.0.2" if family == 4 else "fd77::2"
    server = inside(server_netns, lambda: open_socket(family, socket.SOCK_STREAM, address, 8080))
    server.listen()
    server.settimeout(10)
    thread = threading.Thread(target=serve, args=(server,))
    thread.start()
    before = rig.maps.counters()
    with inside(wire.pod, lambda: socket.create_connection((VIPS[family], 80), timeout=10)) as client:
        client.sendall(b"z" * size)
        client.shutdown(socket.SHUT_WR)
        thread.join(20)
        mtu = client.getsockopt(*((socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)))
    server.close()
    assert got == [size]
    assert mtu == 1300
    assert counted(rig, before)[V.VERDICT_ERROR_ANSWER] > 0


def behind_a_narrow_link(wire: Wire) -> int:
    """A netns behind the world, a router now, over a link that takes 1300 bytes one way; its own MTU is 1500."""
    made = new_netns()
    ip(wire.world, f"ip link add narrow mtu 1300 type veth peer name far netns /proc/{os.getpid()}/fd/{made}")
    ip(
        wire.world,
        "ip link set narrow up",
        "ip address add 10.77.0.1/24 dev narrow",
        "ip address add fd77::1/64 dev narrow nodad",
    )
    ip(wire.world, "sysctl -qw net.ipv4.ip_forward=1", "sysctl -qw net.ipv6.conf.all.forwarding=1")
    ip(
        made,
        "ip link set far up",
        "ip address add 10.77.0.2/24 dev far",
        "ip address add fd77::2/64 dev far nodad",
        "ip route add default via 10.77.0.1",
        "ip route add default via fd77::1",
    )
    return made


@families
def test_large_datagrams_both_ways(rig: Rig, wire: Wire, family: int) -> None:
    """Fragments: only the first has ports."""
    rig.service((VIPS[family], 53, "UDP"), {1: (FARS[family], 5353)})
    server = inside(wire.world, lambda: open_socket(family, socket.SOCK_DGRAM, FARS[family], 5353))
    client = inside(wire.pod, lambda: open_socket(family, socket.SOCK_DGRAM))
    with server, client:
        for size in (1400, 4000, 20_000, 60_000):
            client.sendto(b"q" * size, (VIPS[family], 53))
            question, peer = server.recvfrom(65536)
            assert (len(question), peer[0]) == (size, PODS[family])
            server.sendto(question, peer)
            answer, source = client.recvfrom(65536)
            assert (answer, source[:2]) == (question, (VIPS[family], 53))


def test_port_unreachable_of_the_backend_comes_from_the_cluster_ip(rig: Rig, wire: Wire) -> None:
    rig.service((VIP, 53, "UDP"), {1: (FAR, 5353)})
    with inside(wire.pod, lambda: open_socket(4, socket.SOCK_DGRAM)) as client:
        client.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        client.connect((VIP, 53))
        client.send(b"anybody?")
        with pytest.raises(OSError, match="refused") as error:
            client.recv(100)
        assert error.value.errno == errno.ECONNREFUSED
        _, ancillary, _, peer = client.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        offender = ancillary[0][2][16:24]
    assert peer[:2] == (VIP, 53)
    assert socket.inet_ntoa(offender[4:8]) == VIP
