"""Socket load balancing as the agent runs it: across restarts, switched off and on, beside another agent, and the end
of sockets whose backend is gone."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from datapath import bpfcall, cgroup
from datapath.entries import pack_ip
from datapath.loader import SOCKET_PROGRAMS
from datapath.maps import Maps
from datapath.sockdiag import DiagSocket
from datapath.table import Cookie, Number
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.netns.cgroup_programs import all_attached, gone
from tests.netns.cni_calls import Container
from tests.netns.named_server import TIMEOUT_S, connect, named_server, who
from tests.netns.node import program_id
from tests.netns.socket_node import cookie_of
from tests.testbed import netns

VIP, PORT, TARGET_PORT = "10.96.7.7", 80, 8080
NAME = "balanced"


class Pods(NamedTuple):
    """A client and two servers on one node."""

    rig: AgentRig
    client: Container
    servers: dict[str, str]  # address by name

    def serve(self, *names: str, draining: tuple[str, ...] = ()) -> None:
        """Make these the endpoints, and wait until the maps say so."""
        self.apply(*names, draining=draining)
        wanted = {(self.servers[name], name in draining) for name in (*names, *draining)}
        self.rig.eventually(lambda: self.programmed() == wanted, self.programmed)

    def apply(self, *names: str, draining: tuple[str, ...] = ()) -> None:
        """Make these the endpoints in the store."""
        ports = [{"name": p.lower(), "port": PORT, "protocol": p, "targetPort": TARGET_PORT} for p in ("TCP", "UDP")]
        meta = {"name": NAME, "namespace": "default"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"clusterIP": VIP, "ports": ports}}
        self.rig.folder.apply(service)
        ending = {"ready": False, "serving": True, "terminating": True}
        states = {name: {"ready": True} for name in names} | {name: ending for name in draining}
        self.rig.folder.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {**meta, "labels": {"kubernetes.io/service-name": NAME}},
                "ports": [{"name": port["name"], "port": TARGET_PORT, "protocol": port["protocol"]} for port in ports],
                "endpoints": [{"addresses": [self.servers[n]], "conditions": c} for n, c in states.items()],
            }
        )

    def programmed(self) -> set[tuple[str, bool]]:
        """Backends in the maps: address, and whether they drain."""
        with Maps(self.rig.config.bpf_root) as maps:
            return {(entry.address, bool(entry.flags)) for _, entry in maps.backends.items()}

    def udp(self) -> socket.socket:
        """A datagram socket of the client."""
        made = netns.enter(self.client.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.settimeout(TIMEOUT_S)
        return made

    def wire_peer(self, sock: socket.socket, protocol: str) -> str:
        """Whom the kernel sends to: a server's name, or "vip"."""

        def look() -> bytes:
            with DiagSocket() as diag:
                return next(one.remote for one in diag.connected(protocol) if one.cookie == cookie_of(sock))

        remote = netns.enter(self.client.netns, look)
        names = {pack_ip(address): name for name, address in {**self.servers, "vip": VIP}.items()}
        return names[remote]

    def balanced(self) -> bool:
        """Whether a new connection is balanced in its socket; it must reach a server in any case."""
        with connect(self.client.netns, VIP, PORT) as stream:
            assert who(stream) in self.servers
            assert stream.getpeername() == (VIP, PORT)
            return self.wire_peer(stream, "TCP") in self.servers


@contextmanager
def pods_of(rig: AgentRig) -> Iterator[Pods]:
    """Two servers `one` and `two`, and a client."""
    containers = {name: rig.add() for name in ("client", "one", "two")}
    address = {name: answer.addresses[0].partition("/")[0] for name, (_, answer) in containers.items()}
    client, _ = containers["client"]
    # The gateway is nobody; packets that tc translates are routed to it first.
    netns.ip_batch([f"neigh replace {GATEWAY} lladdr 02:00:00:00:00:fe dev eth0"], client.netns)
    with ExitStack() as servers:
        for name in ("one", "two"):
            servers.enter_context(named_server(containers[name][0].netns, name, TARGET_PORT))
        try:
            yield Pods(rig, client, {name: address[name] for name in ("one", "two")})
        finally:
            if ("Service", f"default/{NAME}") in rig.folder:
                rig.folder.delete("EndpointSlice", f"default/{NAME}")
                rig.folder.delete("Service", f"default/{NAME}")


@pytest.fixture
def pods(rig: AgentRig) -> Iterator[Pods]:
    """Pods on the shared node."""
    with pods_of(rig) as built:
        yield built


def links(rig: AgentRig) -> set[tuple[str, int]]:
    """The pinned links."""
    return {(pin.name, pin.stat().st_ino) for pin in (rig.config.bpf_root / "links").iterdir()}


def programs_of(rig: AgentRig) -> set[int]:
    """Ids of the agent's socket programs."""
    found = set()
    for spec in SOCKET_PROGRAMS:
        (pin,) = rig.config.bpf_root.glob(f"v*/progs/*/{spec.name}")
        fd = bpfcall.obj_get(pin)
        found.add(program_id(fd))
        os.close(fd)
    return found


def netns_pods(rig: AgentRig) -> dict[int, int]:
    """Slaves by netns cookie."""
    with Maps(rig.config.bpf_root) as maps:
        return {cookie.number: slave.number for cookie, slave in maps.netns_pods.items()}


def test_on_by_default_and_across_restarts(pods: Pods):
    """Sockets are balanced while no agent runs, and a new agent keeps what is attached."""
    pods.serve("one", "two")
    rig = pods.rig
    assert rig.agent.ask("status")["socket_lb"] == f"on, at {cgroup.check()}"
    assert "Socket LB" in rig.dragline("status").stdout
    assert pods.balanced()
    before, programs = links(rig), programs_of(rig)
    assert programs <= all_attached(cgroup.check())
    rig.agent.kill()
    assert pods.balanced()
    rig.restart()
    assert pods.balanced()
    assert (links(rig), programs_of(rig)) == (before, programs)
    assert programs <= all_attached(cgroup.check())


def test_a_restart_mends_netns_pods(pods: Pods):
    """What names no living pod goes, what is missing comes."""
    pods.serve("one")
    rig, before = pods.rig, netns_pods(pods.rig)
    assert len(before) == 3
    rig.agent.kill()
    with Maps(rig.config.bpf_root) as maps:
        missing, wrong, _ = before
        maps.netns_pods.delete(Cookie(missing))
        maps.netns_pods.put(Cookie(wrong), Number(before[missing]))
        maps.netns_pods.put(Cookie(1 << 60), Number(77))
        maps.netns_pods.put(Cookie(2 << 60), Number(before[missing]))
    rig.restart()
    assert netns_pods(rig) == before
    assert pods.balanced()


def test_sockets_of_a_removed_backend_are_closed(pods: Pods):
    """TCP and connected UDP to the removed one; those to another backend, and unconnected ones, go on."""
    pods.serve("one")
    with ExitStack() as stack:
        stream = stack.enter_context(connect(pods.client.netns, VIP, PORT))
        assert who(stream) == "one"
        datagrams, loose = stack.enter_context(pods.udp()), stack.enter_context(pods.udp())
        datagrams.connect((VIP, PORT))
        loose.sendto(b"who", (VIP, PORT))
        assert loose.recv(100) == b"one"
        pods.serve("one", "two")
        others = [stack.enter_context(connect(pods.client.netns, VIP, PORT)) for _ in range(20)]
        names = [who(other) for other in others]
        assert set(names) == {"one", "two"}
        pods.serve("two")
        with pytest.raises(ConnectionAbortedError):
            stream.recv(100)
        with pytest.raises(ConnectionAbortedError):
            datagrams.recv(100)
        for name, other in zip(names, others, strict=True):
            if name == "two":
                other.sendall(b"still")
                assert other.recv(100) == b"still"
        loose.sendto(b"who", (VIP, PORT))
        assert loose.recvfrom(100) == (b"two", (VIP, PORT))


def test_a_restart_closes_what_was_left(pods: Pods):
    """An agent that dies between the removal of a backend and the closing of its sockets: the next one does it."""
    pods.serve("one")
    rig = pods.rig
    with connect(pods.client.netns, VIP, PORT) as stream, pods.udp() as datagrams:
        assert who(stream) == "one"
        datagrams.connect((VIP, PORT))
        rig.agent.kill()
        with Maps(rig.config.bpf_root) as maps:
            maps.backends.delete_many([key for key, _ in maps.backends.items()])
        pods.apply("two")
        rig.restart()
        for sock in (stream, datagrams):
            with pytest.raises(ConnectionAbortedError):
                sock.recv(100)


def test_a_draining_backend_keeps_its_streams(pods: Pods):
    """Connected UDP is closed, TCP is not; new flows go elsewhere."""
    pods.serve("one")
    with connect(pods.client.netns, VIP, PORT) as stream, pods.udp() as datagrams:
        assert who(stream) == "one"
        datagrams.connect((VIP, PORT))
        pods.serve("two", draining=("one",))
        with pytest.raises(ConnectionAbortedError):
            datagrams.recv(100)
        stream.sendall(b"still")
        assert stream.recv(100) == b"still"
        with connect(pods.client.netns, VIP, PORT) as other:
            assert who(other) == "two"


def test_a_socket_that_has_left_is_not_closed(pods: Pods):
    """One that was connected to the removed backend by the Service, and is now connected to somebody else."""
    pods.serve("one")
    with pods.udp() as moved, pods.udp() as witness:
        for sock in (moved, witness):
            sock.connect((VIP, PORT))
        moved.connect((pods.servers["two"], TARGET_PORT))
        pods.serve("two")
        with pytest.raises(ConnectionAbortedError):
            witness.recv(100)
        moved.send(b"who")
        assert moved.recv(100) == b"two"


def test_off_and_on_again(pods: Pods):
    """Off: nothing is attached, packets are translated; connections from before go on."""
    pods.serve("one")
    rig, programs = pods.rig, programs_of(pods.rig)
    on, off = rig.config, replace(rig.config, socket_lb="off")
    with connect(pods.client.netns, VIP, PORT) as stream:
        try:
            rig.agent.stop()
            rig.agent.config = off
            rig.restart()
            assert rig.agent.ask("status")["socket_lb"] == "off: --socket-lb=off"
            assert not (on.bpf_root / "links").exists()
            assert not all_attached(cgroup.check()) & programs
            assert not pods.balanced()
        finally:
            rig.agent.stop()
            rig.agent.config = on
            rig.restart()
        assert pods.balanced()
        assert who(stream) == "one"
        stream.sendall(b"still")
        assert stream.recv(100) == b"still"


def test_two_agents_on_one_kernel(pods: Pods):
    """The same ClusterIP on two nodes: each pod meets its own; the end of one agent is nothing to the other."""
    where, ours = cgroup.check(), programs_of(pods.rig)
    pods.serve("one")
    with AgentRig() as other:
        with pods_of(other) as others:
            others.serve("two")
            for each, name in ((pods, "one"), (others, "two")):
                with connect(each.client.netns, VIP, PORT) as stream:
                    assert who(stream) == name
                    assert each.wire_peer(stream, "TCP") == name
            theirs = programs_of(other)
            assert len(ours | theirs) == 2 * len(SOCKET_PROGRAMS)
            assert ours | theirs <= all_attached(where)
        other.discard()
    gone(theirs)
    assert not Path(other.config.bpf_root).exists()
    assert ours <= all_attached(where)
    assert pods.balanced()
