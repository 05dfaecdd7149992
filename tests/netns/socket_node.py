"""A node whose pods' sockets are balanced: one client, two servers, Services written straight into the maps."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import NamedTuple, TypeVar

from datapath import cgroup
from datapath.abi import ADDRESS_CLUSTER_IP, ADDRESS_FRONTEND, BACKEND_DRAINING, Verdict
from datapath.entries import BackendEntry, ServiceEntry, ServiceKey, pack_ip
from datapath.loader import Programs
from datapath.sockdiag import ConnectedSocket, DiagSocket
from datapath.table import Number
from datapath.wiring import PodAddress, wire
from tests.netns.node import IFINDEX, Node, inside, ip, pod_wiring

T = TypeVar("T")

PORT, TARGET_PORT = 80, 8080
CLIENT, ONE, TWO = "client", "one", "two"
NUMBERS = {CLIENT: 20, ONE: 21, TWO: 22}
TIMEOUT_S = 5.0
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
SO_COOKIE = 57


class Way(NamedTuple):
    """How a pod names a Service: family of its socket, the VIP as it says and sees it, and as it is in the maps."""

    family: socket.AddressFamily
    named: str
    vip: str


WAYS = {
    "ipv4": Way(socket.AF_INET, "10.96.0.10", "10.96.0.10"),
    "ipv6": Way(socket.AF_INET6, "fd96::10", "fd96::10"),
    "mapped": Way(socket.AF_INET6, "::ffff:10.96.0.10", "10.96.0.10"),
}


def address(pod: str, vip: str) -> str:
    """The pod's address of the VIP's family."""
    return f"fd07::{NUMBERS[pod]}" if ":" in vip else f"10.7.0.{NUMBERS[pod]}"


class SocketNode:
    """Socket load balancing is attached for the pods of this node for as long as it is open."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.node = Node(programs)
        self.maps = self.node.maps
        self.pods = {name: self.node.new_pod() for name in NUMBERS}
        for place, (name, fd) in enumerate(self.pods.items()):
            addresses = tuple(
                PodAddress(f"{address(name, vip)}/{length}", gateway)
                for vip, length, gateway in ((".", 24, "10.7.0.254"), (":", 64, "fd07::fe"))
            )
            facts = replace(pod_wiring(self.node), ifindex=IFINDEX + place, addresses=addresses, container_id=name)
            self.node.run(lambda facts=facts, fd=fd: wire(facts, fd, self.node.kernel))
        # The gateway is nobody: what is sent to it must not wait for a neighbour.
        for name in self.pods:
            ip(self.pods[name], "ip neigh replace 10.7.0.254 lladdr 02:00:00:00:00:fe dev eth0")
            ip(self.pods[name], "ip neigh replace fd07::fe lladdr 02:00:00:00:00:fe dev eth0")

    def close(self) -> None:
        """Detach, and empty what was written."""
        cgroup.detach(self.programs.bpf_root)
        self.empty()
        for slave in range(IFINDEX, IFINDEX + len(self.pods)):
            self.maps.forget_netns(slave)
        self.node.close()

    def attach(self) -> None:
        """Attach the socket programs."""
        cgroup.attach(self.programs, cgroup.check(), self.programs.bpf_root)

    def empty(self) -> None:
        """No Services any more, no memory of any."""
        for table in (self.maps.services, self.maps.backends, self.maps.affinity, self.maps.flow_counters):
            table.delete_many([key for key, _ in table.items()])
        for table in (self.maps.socket_backends, self.maps.socket_frontends, self.maps.conntrack):
            table.delete_many([key for key, _ in table.items()])
        for known in self.maps.addresses():
            self.maps.mark_address(known, ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP, 0)

    def serve(
        self, vip: str, protocol: str, pods: Sequence[str], *, number: int = 1, port: int = PORT, affinity_s: int = 0
    ) -> None:
        """Make the pods the backends of a frontend: service `number`, ids from 10 * number + 1 as in NUMBERS."""
        ids = [10 * number + 1 + list(NUMBERS).index(pod) for pod in pods]
        for pod, backend in zip(pods, ids, strict=True):
            self.maps.backends.put(Number(backend), BackendEntry(address(pod, vip), TARGET_PORT, number))
        for slot, backend in enumerate(ids, 1):
            self.maps.services.put(ServiceKey(vip, port, protocol, slot), ServiceEntry(backend_id=backend))
        head = ServiceEntry(service_id=number, count=len(pods), affinity_s=affinity_s)
        self.maps.services.put(ServiceKey(vip, port, protocol, 0), head)
        for key, entry in list(self.maps.backends.items()):
            if entry.service_id == number and key.number not in ids:
                self.maps.backends.delete(key)
        if vip not in ("0.0.0.0", "::"):
            flags = ADDRESS_FRONTEND | ADDRESS_CLUSTER_IP
            self.maps.mark_address(vip, flags, flags)

    def drain(self, vip: str, pod: str, number: int = 1) -> None:
        """Mark a backend that is in no slot as draining."""
        backend = Number(10 * number + 1 + list(NUMBERS).index(pod))
        self.maps.backends.put(backend, BackendEntry(address(pod, vip), TARGET_PORT, number, BACKEND_DRAINING))

    def socket(self, way: Way, kind: int, pod: str = CLIENT) -> socket.socket:
        """A socket of a pod (of its namespace: no process need live there)."""
        made = inside(self.pods[pod], lambda: socket.socket(way.family, kind))
        made.settimeout(TIMEOUT_S)
        return made

    def wire_peer(self, sock: socket.socket, protocol: str, pod: str = CLIENT) -> tuple[bytes, int]:
        """The peer (as struct ip, and port) that the kernel sends to, whatever getpeername says."""
        found = self.kernel_view(sock, protocol, pod)
        return found.remote, found.port

    def kernel_view(self, sock: socket.socket, protocol: str, pod: str = CLIENT) -> ConnectedSocket:
        """The socket as sock_diag shows it."""

        def look() -> ConnectedSocket:
            with DiagSocket() as diag:
                return next(one for one in diag.connected(protocol) if one.cookie == cookie_of(sock))

        return inside(self.pods[pod], look)

    def counted(self, work: Callable[[], T]) -> tuple[T, dict[Verdict, int]]:
        """The result of `work`, and by how much each counter rose meanwhile."""
        before = self.maps.counters()
        result = work()
        after = self.maps.counters()
        return result, {
            verdict: after[verdict] - before[verdict] for verdict in after if after[verdict] != before[verdict]
        }


TRANSLATIONS = {
    Verdict.VERDICT_SERVICE_OWN_MAC,
    Verdict.VERDICT_SERVICE_GATEWAY,
    Verdict.VERDICT_SERVICE_FIB,
    Verdict.VERDICT_SERVICE_NEIGH,
    Verdict.VERDICT_SERVICE_MAC,
    Verdict.VERDICT_HAIRPIN,
    Verdict.VERDICT_ANSWER,
}


def cookie_of(sock: socket.socket) -> int:
    """SO_COOKIE."""
    number: int = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    return number


def wire_name(pod: str, vip: str) -> tuple[bytes, int]:
    """What `wire_peer` gives for a connection to that pod's server."""
    return pack_ip(address(pod, vip)), TARGET_PORT


@contextmanager
def named_servers(netns_fd: int, name: str) -> Iterator[None]:
    """TCP (a line with the name and the peer, then echo) and UDP (the same line to every datagram), both families."""

    def listen() -> tuple[socket.socket, socket.socket]:
        datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        datagrams.bind(("::", TARGET_PORT))
        streams = socket.create_server(("::", TARGET_PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        return streams, datagrams

    streams, datagrams = inside(netns_fd, listen)
    threads = [
        threading.Thread(target=_accept, args=(streams, name)),
        threading.Thread(target=_answer, args=(datagrams, name)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        streams.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):  # ENOTCONN, but whoever waits in recvfrom is woken
            datagrams.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        streams.close()
        datagrams.close()


def _line(name: str, peer: str) -> bytes:
    return f"{name} {peer.removeprefix('::ffff:')}\n".encode()


def _accept(listener: socket.socket, name: str) -> None:
    with suppress(OSError):  # shut down
        while True:
            connection, peer = listener.accept()
            threading.Thread(target=_serve, args=(connection, _line(name, peer[0])), daemon=True).start()


def _serve(connection: socket.socket, line: bytes) -> None:
    with connection, suppress(OSError):
        connection.sendall(line)
        while data := connection.recv(65536):
            connection.sendall(data)


def _answer(datagrams: socket.socket, name: str) -> None:
    with suppress(OSError):
        while True:
            data, client = datagrams.recvfrom(2048)
            if not data:
                return
            datagrams.sendto(_line(name, client[0]), client)


def ask(sock: socket.socket) -> str:
    """What a connected TCP socket is told."""
    with sock.makefile("rb") as lines:
        return lines.readline().decode().strip()


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


def direct_name(way: Way, pod: str) -> str:
    """A pod's address as a socket of that way names it."""
    return f"::ffff:{address(pod, way.vip)}" if way is WAYS["mapped"] else address(pod, way.vip)
