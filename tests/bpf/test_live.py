"""Real packets between two netns: what PROG_TEST_RUN cannot show (redirect_neigh, GSO, checksum offload)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from datapath import bpfcall, loader
from datapath.abi import ABI_VERSION, CALL_FROM_POD, U32, Verdict
from datapath.loader import Programs
from tests.bpf.rig import SLAVE, Rig
from tests.netns.node import inside, ip, new_netns, program_id
from tests.packets import FAR, GATEWAY, GATEWAY_MAC, ON_LINK_UNKNOWN, OWN_MAC, POD_ONE, VIP

V = Verdict
BULK = 3_000_000
SIOCETHTOOL, ETHTOOL_STXCSUM = 0x8946, 0x17


class Wire:
    """A pod's netns and the world behind its slave: a gateway, an on-link backend, and one behind the gateway."""

    def __init__(self, programs: Programs) -> None:
        self.pod, self.world = new_netns(), new_netns()
        pins = programs.bpf_root / f"v{ABI_VERSION}/progs" / programs.build
        ip(
            self.pod,
            "ip link set lo up",
            f"ip link add slave index {SLAVE} address {OWN_MAC} type veth peer name wire address {GATEWAY_MAC}",
            f"ip link set wire netns /proc/{os.getpid()}/fd/{self.world}",
            "ip link set slave up",
            f"ip address add {POD_ONE}/24 dev slave",
            f"ip route add default via {GATEWAY}",
            "tc qdisc add dev slave clsact",
            f"tc filter add dev slave egress bpf da object-pinned {pins}/hold_egress",
            f"tc filter add dev slave ingress bpf da object-pinned {pins}/hold_ingress",
        )
        addresses = (f"{GATEWAY}/24", f"{ON_LINK_UNKNOWN}/24", f"{FAR}/32")
        added = (f"ip address add {address} dev wire" for address in addresses)
        ip(self.world, "ip link set lo up", "ip link set wire up", *added)

    def close(self) -> None:
        """The namespaces and all in them go with their descriptors."""
        for fd in (self.pod, self.world):
            os.close(fd)

    def checksums_by_software(self) -> None:
        """The kernel completes checksums before a frame leaves the slave, so the receiver checks them in full."""

        def switch() -> None:
            value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_STXCSUM, 0), 8)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, SIOCETHTOOL, struct.pack("=16sQ", b"slave", ctypes.addressof(value)))

        inside(self.pod, switch)


@pytest.fixture
def wire(programs: Programs, rig: Rig) -> Iterator[Wire]:
    made = Wire(programs)
    try:
        yield made
    finally:
        made.close()


def exchange(wire: Wire, backend: str) -> None:
    """One TCP connection to the VIP, bulk both ways, answered in the world by `backend`."""

    def listen() -> socket.socket:
        return socket.create_server((backend, 8080))

    def serve(server: socket.socket) -> None:
        connection, peer = server.accept()
        with connection:
            seen.append(peer[0])
            left = BULK
            while left and (part := connection.recv(1 << 16)):
                left -= len(part)
            connection.sendall(b"y" * BULK)

    def connect() -> socket.socket:
        return socket.create_connection((VIP, 80), timeout=10)

    seen: list[str] = []
    with inside(wire.world, listen) as server:
        server.settimeout(10)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with closing(inside(wire.pod, connect)) as client:
            assert client.getpeername() == (VIP, 80)
            client.sendall(b"x" * BULK)
            received = 0
            while part := client.recv(1 << 16):
                received += len(part)
        thread.join()
    assert (received, seen) == (BULK, [POD_ONE])


def counted(rig: Rig, before: dict[Verdict, int]) -> dict[Verdict, int]:
    return {verdict: number - before[verdict] for verdict, number in rig.maps.counters().items()}


@pytest.mark.parametrize("software", [False, True], ids=["checksum-offload", "checksum-software"])
@pytest.mark.parametrize(
    ("backend", "way"), [(FAR, V.VERDICT_SERVICE_GATEWAY), (ON_LINK_UNKNOWN, V.VERDICT_SERVICE_NEIGH)]
)
def test_tcp(rig: Rig, wire: Wire, backend: str, way: Verdict, software: bool) -> None:
    """Large segments through all programs; a second pass of the hook for every frame that redirect_neigh sent."""
    rig.service((VIP, 80, "TCP"), {1: (backend, 8080)})
    if software:
        wire.checksums_by_software()
    before = rig.maps.counters()
    exchange(wire, backend)
    after = counted(rig, before)
    assert after[way] > 0
    assert after[V.VERDICT_ANSWER] > 0
    assert after[V.VERDICT_SECOND_PASS] == after[V.VERDICT_SERVICE_NEIGH]
    assert not any(number for verdict, number in after.items() if verdict.name.startswith("DROP"))


def test_udp(rig: Rig, wire: Wire) -> None:
    """Datagrams with checksums made by software: a wrong one would be dropped by the receiver."""
    rig.service((VIP, 53, "UDP"), {1: (FAR, 5353)})
    wire.checksums_by_software()

    def open_socket(address: str, port: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.settimeout(5)
        return made

    server = inside(wire.world, lambda: open_socket(FAR, 5353))
    client = inside(wire.pod, lambda: open_socket("0.0.0.0", 0))
    with server, client:
        for size in (1, 2, 3, 1000):
            client.sendto(b"q" * size, (VIP, 53))
            question, peer = server.recvfrom(2000)
            server.sendto(question, peer)
            assert client.recvfrom(2000) == (b"q" * size, (VIP, 53))


def test_hairpin(rig: Rig, wire: Wire) -> None:
    """The pod reaches itself by its Service: macvlan, like ipvlan, brings a frame to the own MAC back."""
    rig.service((VIP, 80, "TCP"), {1: (POD_ONE, 8080)})
    pins = rig.programs.bpf_root / f"v{ABI_VERSION}/progs" / rig.programs.build
    ip(
        wire.pod,
        "ip link delete slave",
        "ip link add lower type veth peer name other",
        f"ip link add slave link lower index {SLAVE} address {OWN_MAC} type macvlan mode bridge",
        *(f"ip link set {name} up" for name in ("lower", "other", "slave")),
        f"ip address add {POD_ONE}/24 dev slave",
        f"ip route add default via {GATEWAY}",
        f"ip neighbour add {GATEWAY} lladdr {GATEWAY_MAC} dev slave",
        "tc qdisc add dev slave clsact",
        f"tc filter add dev slave egress bpf da object-pinned {pins}/hold_egress",
        f"tc filter add dev slave ingress bpf da object-pinned {pins}/hold_ingress",
    )
    with inside(wire.pod, lambda: socket.create_server(("0.0.0.0", 8080))) as server:
        server.settimeout(10)
        with inside(wire.pod, lambda: socket.create_connection((VIP, 80), timeout=5)) as client:
            connection, peer = server.accept()
            with connection:
                assert peer[0] == "169.254.202.1"
                connection.sendall(b"myself")
                assert client.recv(100) == b"myself"


def test_test_run_gives_a_duration(rig: Rig) -> None:
    """`repeat` averages inside the kernel (perf uses it on frames that the program leaves alone)."""
    done = rig.inside(
        lambda: bpfcall.prog_test_run(rig.programs.fd("to_pod"), b"\0" * 12 + b"\x08\x06" + b"\0" * 46, SLAVE, 1000)
    )
    assert done.duration_ns > 0


def test_programs_are_swapped_under_a_live_connection(rig: Rig, wire: Wire, tmp_path: Path) -> None:
    """A new build takes the slots while data flows; nobody enters the pod's netns, the connection never notices."""
    rig.service((VIP, 80, "TCP"), {1: (FAR, 8080)})
    changed = tmp_path / "bpf"
    shutil.copytree(loader.SOURCES, changed)
    with (changed / "to_pod.c").open("a") as source:
        source.write("/* newer */\n")
    with (
        inside(wire.world, lambda: socket.create_server((FAR, 8080))) as server,
        inside(wire.pod, lambda: socket.create_connection((VIP, 80), timeout=10)) as client,
    ):
        connection, _ = server.accept()
        with connection:
            client.sendall(b"before")
            assert connection.recv(100) == b"before"
            try:
                with loader.load(rig.programs.bpf_root, changed) as newer:
                    assert newer.build != rig.programs.build
                    client.sendall(b"after")
                    assert connection.recv(100) == b"after"
                    connection.sendall(b"answer")
                    assert client.recv(100) == b"answer"
                    runs = bpfcall.lookup(rig.maps.fd("calls"), U32.pack(CALL_FROM_POD), U32.size)
                    assert runs == U32.pack(program_id(newer.fd("from_pod")))
            finally:
                loader.load(rig.programs.bpf_root).close()
